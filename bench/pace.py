"""A model that computes nothing for vLLM: tokens at a GPU's pace, on any machine.

All else is vLLM's own: its process, scheduler, cache and messages. So what HTTP and Python cost beside a fast GPU shows
without one. `CHAT_EXECUTOR=bench.pace.PacedExecutor` puts it in the place of the workers that hold the model.
"""

import os
import time
from concurrent.futures import Future
from typing import Any

import torch
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.worker.worker_base import CompilationTimes

from bench.contenders import STEP

_FIRST, _TOKENS = 1000, 20_000  # ids of ordinary text in the embedded model's vocabulary


class PacedExecutor(Executor):  # type: ignore[misc]
    """Ends each forward pass so many milliseconds after it began or after the one before; all choose the same token."""

    def _init_executor(self) -> None:
        self._seconds = float(os.environ[STEP]) / 1000
        self._passes, self._free_at = 0, 0.0
        self._prompts = dict[str, int]()
        """Tokens of each request's prompt that no pass has taken yet."""
        self._made = ModelRunnerOutput([], {})

    def collective_rpc(self, method: Any, *_: Any, **__: Any) -> list[Any]:
        """What the one worker answers; nothing to most."""
        spec = FullAttentionSpec(
            block_size=self.cache_config.block_size,
            num_kv_heads=self.model_config.get_num_kv_heads(self.parallel_config),
            head_size=self.model_config.get_head_size(),
            dtype=torch.float32,
        )
        answers = {
            "get_kv_cache_spec": {"layer": spec},
            "get_supported_kv_cache_layouts": ["LBNHC"],
            "determine_available_memory": self.cache_config.kv_cache_memory_bytes,
            "compile_or_warm_up_model": CompilationTimes(0.0, 0.0),
            "get_supported_tasks": ("generate",),
        }
        return [answers.get(method)]

    def execute_model(self, scheduler_output: SchedulerOutput, non_block: bool = False) -> Any:
        """Begin a pass; `sample_tokens` gives what it makes, but for a pass of nothing."""
        for ended in scheduler_output.finished_req_ids:
            self._prompts.pop(ended, None)
        for new in scheduler_output.scheduled_new_reqs:
            self._prompts[new.req_id] = len(new.prompt_token_ids) - new.num_computed_tokens
        taken = scheduler_output.num_scheduled_tokens
        for request, count in taken.items():
            self._prompts[request] -= count
        token = _FIRST + self._passes * 7 % _TOKENS
        self._passes += 1
        self._made = ModelRunnerOutput(
            list(taken),
            {request: place for place, request in enumerate(taken)},
            [[token] if self._prompts[request] <= 0 else [] for request in taken],
        )
        return _due(0.0, None if taken else self._made, non_block)

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Any:  # noqa: ARG002
        """The tokens of the pass, when it is over."""
        self._free_at = max(time.monotonic(), self._free_at) + self._seconds
        return _due(self._free_at, self._made, non_block)

    def check_health(self) -> None:
        """Nothing can fail."""

    def shutdown(self) -> None:
        """Nothing runs."""


class _Due(Future[Any]):
    """A value that is waited for until a time of `time.monotonic`."""

    def __init__(self, time_: float, value: Any) -> None:
        super().__init__()
        self._time = time_
        self.set_result(value)

    def result(self, timeout: float | None = None) -> Any:
        time.sleep(max(0.0, self._time - time.monotonic()))
        return super().result(timeout)


def _due(time_: float, value: Any, non_block: bool) -> Any:
    future = _Due(time_, value)
    return future if non_block else future.result()
