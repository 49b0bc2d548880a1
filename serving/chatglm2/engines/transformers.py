"""Engine on transformers' continuous batching: requests join and leave one running batch at every token.

The manager runs in a thread of its own. It never refuses a request and dies of a bad one, so callers keep to `limits`.
If it dies all the same it is started again; requests that had no part in it go on where they were. A GPU whose context
is lost never answers this process again, so the process ends, for whatever runs it to start anew.
"""

import asyncio
import contextlib
import os
import signal
import threading
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation import ContinuousBatchingConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList

from chatglm2.engines import attention, linear
from chatglm2.engines.base import MOST_BEAMS, Limits, Logprobs, Sampling, Step, token_ids
from chatglm2.engines.restart import Restart
from chatglm2.engines.sampler import NON_FINITE, Chooser, NonFiniteLogitsError, Sampler, require_finite
from chatglm2.errors import ChatError, CheckpointError, NotFinite, OutOfMemory, Unavailable

log = structlog.get_logger()

PAGE_TOKENS = 32
"""Tokens in a cache page. Prompts share whole pages only, so small pages share more."""


class Interrupted(Exception):  # noqa: N818 - not an error of the request it reaches
    """The batch ended through no fault of this request, which can be given again."""


def touch(device: torch.device) -> None:
    """Compute something on `device`. Raises torch.AcceleratorError where its context is lost."""
    torch.zeros(1, device=device).item()


class TransformersEngine:
    """One model, one cache of `cache_tokens` tokens, at most `max_running` requests in the batch.

    `touch` is asked before a restart whether the device still computes.
    """

    def __init__(
        self,
        model: Any,
        touch: Callable[[torch.device], None] = touch,
        /,
        *,
        cache_tokens: int,
        batch_tokens: int,
        max_running: int,
    ) -> None:
        blocks = cache_tokens // PAGE_TOKENS
        self.limits = Limits(min(model.config.max_position_embeddings, blocks * PAGE_TOKENS), MOST_BEAMS)
        self._model, self._touch = model, touch
        self._ends = token_ids(model.generation_config.eos_token_id)
        self._sampler = Sampler()
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=self._ends or -1, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=PAGE_TOKENS,
                num_blocks=blocks,
                max_batch_tokens=batch_tokens,
                max_requests_per_batch=max_running,
                use_async_batching=False,
                use_cuda_graph=False,
                auto_switch_to_flash=False,
            ),
        )
        self._manager.logit_processor = self._sampler
        self._restart, self._searching = Restart(self.ready, self._start_again), asyncio.Lock()
        self._start()

    @classmethod
    def load(cls, path: Path, dtype: torch.dtype, device: str, **sizes: int) -> "TransformersEngine":
        """Read the native checkpoint in folder `path` onto `device`. Raises CheckpointError for one with gaps."""
        model, found = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation="sdpa", local_files_only=True, output_loading_info=True
        )
        if missing := found["missing_keys"]:
            raise CheckpointError(
                f"{path}: {len(missing)} tensors missing, such as {min(missing)}; fetch or convert the model again"
            )
        if device == "cpu":
            attention.use(model)
            linear.pack(model)
        return cls(model.to(device).eval(), **sizes)

    def ready(self) -> bool:
        """Whether the generation thread is alive and takes requests."""
        return self._manager.is_running() and self._manager.background_thread_status.can_accept_new_requests() is None

    def cache_use(self) -> float:
        """Share of the key-value cache that is in use, 0 to 1; 0 before the generation thread has made it."""
        processor = self._manager.batch_processor
        return 0.0 if processor is None else 1.0 - float(processor.cache.compute_free_capacity())

    async def generate(self, prompt: list[int], sampling: Sampling) -> AsyncGenerator[list[Step], None]:
        """Steps as they come; a beam search gives them all at its end."""
        if sampling.num_beams > 1:
            yield await self._search(prompt, sampling)
            return
        chooser, made = Chooser.of(sampling, self._model.device, len(prompt)), list[int]()
        while True:
            attempt = self._attempt(prompt + made, sampling.max_new_tokens - len(made), chooser)
            try:
                async with contextlib.aclosing(attempt):
                    async for steps in attempt:
                        recorded = chooser.recorded[len(made) :]
                        made += [step.token for step in steps]
                        yield _with_logprobs(steps, recorded) if recorded else steps
                return
            except Interrupted:
                continue

    async def close(self) -> None:
        """Stop the generation thread."""
        await self._restart.close()
        if self._manager.is_running():
            await asyncio.to_thread(self._manager.stop, hard_stop=True)

    async def _attempt(
        self, prompt: list[int], max_new_tokens: int, chooser: Chooser
    ) -> AsyncGenerator[list[Step], None]:
        await self._restart.ensure_ready()
        request_id, results = uuid.uuid4().hex, asyncio.Queue[Any]()
        self._sampler.add(request_id, chooser)
        self._manager.register_result_handler(request_id, results.put_nowait)
        finished, seen = False, 0
        try:
            if self._manager.add_request(prompt, request_id, max_new_tokens, True, eos_token_id=self._ends) is None:
                raise Interrupted
            while not finished:
                came = [await results.get()]
                while not results.empty():
                    came.append(results.get_nowait())
                good = [result for result in came if result.error is None]
                if good:
                    finished, tokens = good[-1].is_finished(), good[-1].generated_tokens  # all tokens so far
                    if steps := self._steps(tokens[seen:], finished):
                        seen = len(tokens)
                        yield steps
                if len(good) < len(came):
                    await self._restart.ensure_ready()
                    raise self._failure(request_id, came[-1].error)
        finally:
            if not finished:
                self._manager.cancel_request(request_id)
            self._forget(request_id)

    def _steps(self, tokens: list[int], finished: bool) -> list[Step]:
        """One for each of `tokens`; if the answer is finished, the last says why."""
        steps = [Step(token) for token in tokens]
        if finished and steps:
            steps[-1] = Step(tokens[-1], "stop" if tokens[-1] in self._ends else "length")
        return steps

    def _failure(self, request_id: str, error: str) -> Exception:
        if request_id in self._sampler.spoiled:
            return NotFinite()
        if error == NON_FINITE:
            return Interrupted()
        if "out of memory" in error.lower():
            return OutOfMemory("the device ran out of memory; ask for fewer tokens or try again later")
        return ChatError(f"generation failed: {error}")

    def _forget(self, request_id: str) -> None:
        self._sampler.drop(request_id)
        with self._manager.output_router._lock:
            self._manager.output_router.result_handlers.pop(request_id, None)

    def _start_again(self) -> None:
        """A stopped manager makes a new cache when it starts, so nothing of the old one can spoil a new answer."""
        try:
            self._touch(self._model.device)
        except torch.AcceleratorError as error:
            log.critical("device lost", device=str(self._model.device), error=str(error).split("\n")[0])
            os.kill(os.getpid(), signal.SIGTERM)
            raise Unavailable("the device is lost and the service restarts; send the request again") from error
        self._manager.stop(timeout=5)
        self._start()

    def _start(self) -> None:
        """Start the generation thread from a daemon, which makes it one too: whatever interrupts the start of a service
        just then, the process can end."""
        starter = threading.Thread(target=self._manager.start, daemon=True)
        starter.start()
        starter.join()

    async def _search(self, prompt: list[int], sampling: Sampling) -> list[Step]:
        """Beam search outside the batch, which waits meanwhile; one at a time. The thread ends with its request."""
        async with self._searching:
            await self._restart.ensure_ready()
            cancelled = threading.Event()
            work = asyncio.create_task(asyncio.to_thread(self._beam_search, prompt, sampling, cancelled))
            try:
                tokens = await asyncio.shield(work)
            finally:
                cancelled.set()
                await asyncio.wait([work])
        return self._steps(tokens, finished=True)

    def _beam_search(self, prompt: list[int], sampling: Sampling, cancelled: threading.Event) -> list[int]:
        ids = torch.tensor([prompt], device=self._model.device)
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        try:
            with self._manager.pause(), torch.inference_mode(), torch.random.fork_rng(devices):
                torch.manual_seed(sampling.seed) if sampling.seed is not None else torch.seed()
                sequence = self._model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=_beam_config(sampling, self._ends),
                    logits_processor=LogitsProcessorList([FiniteLogits()]),
                    stopping_criteria=StoppingCriteriaList([Cancelled(cancelled)]),
                )[0]
        except NonFiniteLogitsError as error:
            raise NotFinite from error
        except torch.OutOfMemoryError as error:
            raise OutOfMemory("the device ran out of memory; ask for fewer beams or fewer tokens") from error
        return [int(token) for token in sequence[len(prompt) :]]


class FiniteLogits(LogitsProcessor):  # type: ignore[misc]
    """Refuses logits that are not finite, before anything is chosen from them."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [rows, vocabulary], returned as they came. Raises NonFiniteLogitsError."""
        return require_finite(scores)


class Cancelled(StoppingCriteria):  # type: ignore[misc]
    """Ends a search when its event is set."""

    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """For each of `input_ids`' rows, whether to stop."""
        return torch.full((input_ids.shape[0],), self._event.is_set(), device=input_ids.device)


def _with_logprobs(steps: list[Step], recorded: list[Logprobs]) -> list[Step]:
    return [replace(step, logprobs=logprobs) for step, logprobs in zip(steps, recorded, strict=False)]


def _beam_config(sampling: Sampling, ends: list[int]) -> GenerationConfig:
    warpers: dict[str, Any] = {}
    if sampling.do_sample:
        warpers = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    return GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        num_beams=sampling.num_beams,
        length_penalty=sampling.length_penalty,
        early_stopping=sampling.early_stopping,
        repetition_penalty=sampling.repetition_penalty,
        do_sample=sampling.do_sample,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
        **warpers,
    )
