"""The transformers engine against plain `generate`, on a tiny random model in float32."""

import asyncio
import copy
import functools
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from chatglm2.engines.base import Sampling, Step
from chatglm2.engines.transformers import TransformersEngine
from chatglm2.errors import ChatError, Unavailable
from tests.chatglm2.conftest import DEVICES, steps

POISON = 99
"""A token whose embedding is not a number."""
END = 2


@functools.cache
def original() -> Any:
    """Made once, before any engine: a generation thread that starts draws from torch's global seed too."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=END,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(8)
    return model


def tiny_model(poisoned: bool = False) -> Any:
    model = copy.deepcopy(original())
    if poisoned:
        with torch.no_grad():
            model.model.embed_tokens.weight[POISON] = float("nan")
    return model


@pytest.fixture(params=DEVICES)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[TransformersEngine]:
    model = tiny_model().to(request.param)
    engine = TransformersEngine(model, cache_tokens=1024, batch_tokens=64, max_running=16)
    yield engine
    await engine.close()


@pytest.fixture
async def poisoned() -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine(tiny_model(poisoned=True), cache_tokens=1024, batch_tokens=64, max_running=16)
    yield engine
    await engine.close()


async def tokens(engine: TransformersEngine, prompt: list[int], sampling: Sampling) -> list[int]:
    return [step.token for step in await steps(engine, prompt, sampling)]


def probability(step: Step) -> float:
    assert step.logprobs is not None
    return step.logprobs.token


def reference(
    prompt: list[int], seed: int | None = None, device: torch.device | str = "cpu", **generation: Any
) -> list[int]:
    """What plain `generate` gives. It draws from torch's global seed, as an engine does at its start: ask it after."""
    model, ids = tiny_model().to(device), torch.tensor([prompt], device=device)
    config = GenerationConfig(eos_token_id=END, pad_token_id=0, **generation)
    if seed is not None:
        torch.manual_seed(seed)
    output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return [int(token) for token in output[0, len(prompt) :]]


PROMPTS = [[5, 6, 7], list(range(10, 90)), [4], [30, 31] * 20]
SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 1.3, "top_k": 20, "top_p": 0.9}


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
async def test_greedy_equals_generate(engine: TransformersEngine, prompt: list[int]) -> None:
    assert await tokens(engine, prompt, Sampling(20)) == reference(prompt, max_new_tokens=20, do_sample=False)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("choice", [SAMPLED, {**SAMPLED, "top_k": 0}, {**SAMPLED, "repetition_penalty": 1.4}])
async def test_sampling_equals_generate_with_the_same_seed(
    engine: TransformersEngine, seed: int, choice: dict[str, Any]
) -> None:
    answer = await tokens(engine, PROMPTS[0], Sampling(20, seed=seed, **choice))
    device = engine._model.device  # other devices draw other numbers for a seed
    assert answer == reference(PROMPTS[0], seed, device, max_new_tokens=20, **choice)


async def test_repetition_penalty_equals_generate(engine: TransformersEngine) -> None:
    expected = reference(PROMPTS[3], max_new_tokens=20, do_sample=False, repetition_penalty=1.5)
    assert await tokens(engine, PROMPTS[3], Sampling(20, repetition_penalty=1.5)) == expected


@pytest.mark.parametrize("choice", [{}, {"length_penalty": 2.0, "early_stopping": True}, {"repetition_penalty": 1.3}])
async def test_beam_search_equals_generate(engine: TransformersEngine, choice: dict[str, Any]) -> None:
    expected = reference(PROMPTS[0], max_new_tokens=12, num_beams=4, do_sample=False, **choice)
    assert await tokens(engine, PROMPTS[0], Sampling(12, num_beams=4, **choice)) == expected


async def test_mixed_requests_at_once_get_what_they_get_alone(engine: TransformersEngine) -> None:
    kinds = [
        Sampling(25),
        Sampling(15, seed=3, **SAMPLED),
        Sampling(8, num_beams=3),
        Sampling(30, repetition_penalty=1.2),
    ]
    jobs = [(prompt, kind) for prompt in PROMPTS for kind in kinds]
    alone = [await tokens(engine, *job) for job in jobs]
    assert await asyncio.gather(*(tokens(engine, *job) for job in jobs)) == alone


async def test_last_step_says_why_it_is_the_last(engine: TransformersEngine) -> None:
    answer = await steps(engine, PROMPTS[0], Sampling(5))
    assert [step.finish for step in answer] == [None] * 4 + ["length"]


async def test_who_reads_late_gets_together_what_was_made_meanwhile(engine: TransformersEngine) -> None:
    sampling = Sampling(20, logprobs=2)
    expected = await steps(engine, PROMPTS[0], sampling)
    late = engine.generate(PROMPTS[0], sampling)
    first = await anext(late)
    await tokens(engine, PROMPTS[1], Sampling(60))  # forward passes enough for the other, too
    rest = [made async for made in late]
    assert len(rest) == (len(first) < len(expected))
    answer = [step for made in (first, *rest) for step in made]
    assert [(step.token, step.finish) for step in answer] == [(step.token, step.finish) for step in expected]
    assert [probability(step) for step in answer] == pytest.approx([probability(step) for step in expected], abs=1e-4)


async def test_end_token_stops(engine: TransformersEngine) -> None:
    """Sampled until the end token comes up, which with 100 tokens it does."""
    answer: list[Step] = []
    for seed in range(50):
        answer = await steps(engine, [5], Sampling(100, do_sample=True, temperature=5.0, seed=seed))
        if answer[-1].finish == "stop":
            break
    assert answer[-1] == Step(END, "stop")
    assert END not in [step.token for step in answer[:-1]]


async def test_closed_stream_frees_its_place(engine: TransformersEngine) -> None:
    for _ in range(3):
        streams = [engine.generate(PROMPTS[1], Sampling(300)) for _ in range(16)]
        for stream in streams:
            await anext(stream)
            await stream.aclose()
    assert await tokens(engine, PROMPTS[0], Sampling(20)) == reference(PROMPTS[0], max_new_tokens=20, do_sample=False)
    assert not engine._sampler._choosers
    assert not engine._manager.output_router.result_handlers


async def test_closed_beam_search_ends(engine: TransformersEngine) -> None:
    search = asyncio.create_task(tokens(engine, PROMPTS[0], Sampling(500, num_beams=4, early_stopping="never")))
    await asyncio.sleep(0.1)
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    assert await tokens(engine, PROMPTS[0], Sampling(4, num_beams=2))


async def test_output_that_is_not_finite_fails_its_request_and_no_later_one(poisoned: TransformersEngine) -> None:
    expected = await tokens(poisoned, PROMPTS[1], Sampling(20))
    for _ in range(3):
        with pytest.raises(ChatError, match="not finite"):
            await tokens(poisoned, [5, POISON, 7], Sampling(20))
        assert await tokens(poisoned, PROMPTS[1], Sampling(20)) == expected
    with pytest.raises(ChatError, match="not finite"):
        await tokens(poisoned, [5, POISON, 7], Sampling(20, num_beams=2))
    assert poisoned.ready()


async def test_requests_beside_output_that_is_not_finite_never_get_a_wrong_answer(poisoned: TransformersEngine) -> None:
    sampling = Sampling(40)
    expected = await tokens(poisoned, PROMPTS[1], sampling)
    good = [asyncio.create_task(tokens(poisoned, PROMPTS[1], sampling)) for _ in range(30)]
    await asyncio.sleep(0.05)
    with pytest.raises(ChatError, match="not finite"):
        await tokens(poisoned, [5, POISON, 7], Sampling(20))
    for answer in await asyncio.gather(*good, return_exceptions=True):
        assert answer == expected or isinstance(answer, ChatError)
    assert await tokens(poisoned, PROMPTS[1], sampling) == expected


@pytest.mark.parametrize("engine", ["cpu"], indirect=True)  # on a GPU such an id ends CUDA for the whole process
async def test_dead_generation_thread_is_started_again(engine: TransformersEngine) -> None:
    with pytest.raises(ChatError):  # an id outside the vocabulary, which the service never lets through
        await tokens(engine, [5, 1000], Sampling(4))
    assert engine.ready()
    assert await tokens(engine, PROMPTS[0], Sampling(20)) == reference(PROMPTS[0], max_new_tokens=20, do_sample=False)


async def test_lost_device_ends_the_process_in_order() -> None:
    """The loss is a fake: no CPU loses its context."""

    def lost(_: torch.device) -> None:
        raise torch.AcceleratorError("device-side assert triggered\nand how to find out where")

    engine = TransformersEngine(tiny_model(), lost, cache_tokens=1024, batch_tokens=64, max_running=16)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    try:
        with pytest.raises(Unavailable, match="device is lost"):  # by an id outside the vocabulary
            await tokens(engine, [5, 1000], Sampling(4))
        async with asyncio.timeout(60):
            await ended.wait()
        assert not engine.ready()
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        await engine.close()


async def test_more_requests_than_the_cache_holds_all_get_answers(engine: TransformersEngine) -> None:
    expected = await tokens(engine, PROMPTS[1], Sampling(100))
    answers = await asyncio.gather(*(tokens(engine, PROMPTS[1], Sampling(100)) for _ in range(24)))
    assert answers == [expected] * 24
