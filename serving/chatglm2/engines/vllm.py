"""Engine on vLLM: its own process forms the batches, shares prefixes, samples and spreads the model over GPUs.

If that process dies it is started again; requests that were in it fail, later ones wait for the new one.
"""

import asyncio
import contextlib
import math
import os
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What vLLM reads when it is imported: it sends no statistics, counts NaN in logits, starts clean processes, and writes
# warnings only. It does not sample by FlashInfer, which compiles for the GPU at the first top_k or top_p, and fails
# without a CUDA compiler.
os.environ |= {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_COMPUTE_NANS_IN_LOGITS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")

from transformers import AutoConfig, GenerationConfig
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

from chatglm2.engines.base import Limits, Logprobs, Sampling, Step, token_ids
from chatglm2.engines.restart import Restart
from chatglm2.errors import NotFinite, Unavailable

PAGE_TOKENS = 32
"""Tokens in a cache page; vLLM's smallest on a CPU."""


@dataclass(frozen=True)
class Sizes:
    """How much of the hardware an engine takes, and how."""

    max_running: int
    batch_tokens: int | None = None
    """Of one forward pass; None is vLLM's own choice."""
    cache_tokens: int | None = None
    """None is as many as `gpu_memory` leaves room for."""
    gpu_memory: float = 0.9
    """Share of each GPU's memory for weights and cache."""
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    executor: str = "mp"
    """As in the settings."""
    eager: bool = False
    """Start without compiling: sooner, but slower afterwards."""


class VllmEngine:
    """One model in vLLM's own process (and one more for each of several GPUs)."""

    def __init__(self, path: Path, dtype: str, sizes: Sizes) -> None:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        context = config.max_position_embeddings
        if sizes.cache_tokens is not None:
            context = min(context, sizes.cache_tokens // PAGE_TOKENS * PAGE_TOKENS)
        self.limits = Limits(context=context, beams=1)
        self._ends = token_ids(GenerationConfig.from_pretrained(path, local_files_only=True).eos_token_id)
        self._arguments = _arguments(path, dtype, context, sizes, cache_bytes(config, dtype, sizes))
        self._cache_use = CacheUse()
        self._engine = self._start()
        self._restart = Restart(self.ready, self._start_again)

    def ready(self) -> bool:
        """Whether vLLM's process is alive."""
        return not self._engine.errored

    def cache_use(self) -> float:
        """Share of the key-value cache that is in use, 0 to 1, at the last step."""
        return self._cache_use.share

    async def generate(self, prompt: list[int], sampling: Sampling) -> AsyncGenerator[list[Step], None]:
        """Steps as they come.

        Raises Unavailable when vLLM's process dies, NotFinite for logits that are NaN.
        """
        await self._restart.ensure_ready()
        outputs = self._engine.generate(tokens_input(prompt), _parameters(sampling, self._ends), uuid.uuid4().hex)
        try:
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    if output.metrics.is_corrupted:
                        raise NotFinite
                    if steps := _steps(output.outputs[0], sampling.logprobs):
                        yield steps
        except EngineDeadError:
            self._restart.begin()  # so that `/ping` recovers without a request
            raise Unavailable("the engine's process ended and is started again; send the request again") from None

    async def close(self) -> None:
        """End vLLM's processes."""
        await self._restart.close()
        await asyncio.to_thread(self._engine.shutdown)

    def _start_again(self) -> None:
        self._engine.shutdown()
        self._engine = self._start()

    def _start(self) -> AsyncLLM:
        # The context decides how many tokens a forward pass takes where nothing is set: more, the larger the GPU.
        return AsyncLLM.from_engine_args(
            self._arguments, usage_context=UsageContext.OPENAI_API_SERVER, stat_loggers=[self._cache_use.logger]
        )


class CacheUse:
    """Remembers what vLLM says about its cache after each step."""

    def __init__(self) -> None:
        self.share = 0.0

    def logger(self, *_: Any, **__: Any) -> StatLoggerBase:
        """What vLLM calls to make a logger of its statistics."""
        return _CacheUseLogger(self)


class _CacheUseLogger(StatLoggerBase):  # type: ignore[misc]
    def __init__(self, use: CacheUse) -> None:
        self._use = use

    def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
        if scheduler_stats is not None:
            self._use.share = float(scheduler_stats.kv_cache_usage)

    def log_engine_initialized(self) -> None:
        pass


def cache_bytes(config: Any, dtype: str, sizes: Sizes) -> int | None:
    """Bytes on each GPU for keys and values of `sizes.cache_tokens` tokens, and for the page that vLLM leaves empty."""
    if sizes.cache_tokens is None:
        return None
    heads = max(1, config.num_key_value_heads // sizes.tensor_parallel)
    layers = math.ceil(config.num_hidden_layers / sizes.pipeline_parallel)
    number = 4 if dtype == "float32" else 2
    return int((sizes.cache_tokens + PAGE_TOKENS) * layers * 2 * heads * config.head_dim * number)


def _arguments(path: Path, dtype: str, context: int, sizes: Sizes, cache: int | None) -> AsyncEngineArgs:
    return AsyncEngineArgs(
        model=str(path),
        dtype=dtype,
        skip_tokenizer_init=True,
        max_model_len=context,
        max_num_seqs=sizes.max_running,
        max_num_batched_tokens=sizes.batch_tokens,
        block_size=PAGE_TOKENS,
        kv_cache_memory_bytes=cache,
        gpu_memory_utilization=sizes.gpu_memory,
        tensor_parallel_size=sizes.tensor_parallel,
        pipeline_parallel_size=sizes.pipeline_parallel,
        # None is a process for each of several GPUs; one GPU's work is done in the engine's process, without messages.
        distributed_executor_backend=None if sizes.executor == "mp" else sizes.executor,
        enforce_eager=sizes.eager,
        trust_remote_code=False,
        disable_log_stats=True,
    )


def _parameters(sampling: Sampling, ends: list[int]) -> SamplingParams:
    """vLLM's parameters for `sampling`."""
    return SamplingParams(
        max_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature if sampling.do_sample else 0.0,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=sampling.seed,
        logprobs=sampling.logprobs,
        stop_token_ids=ends,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _steps(output: Any, logprobs: int | None) -> list[Step]:
    """The steps in vLLM's output, which may hold several tokens."""
    last = len(output.token_ids) - 1
    return [
        Step(
            token,
            output.finish_reason if place == last else None,
            None if logprobs is None else _logprobs(token, output.logprobs[place], logprobs),
        )
        for place, token in enumerate(output.token_ids)
    ]


def _logprobs(token: int, by_token: dict[int, Any], most: int) -> Logprobs:
    best = sorted(by_token.items(), key=lambda item: item[1].rank)[:most]
    return Logprobs(by_token[token].logprob, tuple((other, value.logprob) for other, value in best))
