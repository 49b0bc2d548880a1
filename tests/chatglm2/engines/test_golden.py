"""The original's tokens and logits on the golden checkpoint, through the engine, one by one and all at once."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from chatglm2.checkpoint.convert import convert
from chatglm2.engines.base import Sampling, Step
from chatglm2.engines.transformers import TransformersEngine
from chatglm2.prompt import Message, Prompter
from tests.chatglm2.conftest import DEVICES, steps
from tests.golden import golden_folder

SIZES = {"cache_tokens": 8192, "batch_tokens": 512, "max_running": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden") / "glm"
    convert(golden_folder(), folder)
    return folder


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    return list(json.loads((golden_folder() / "expected.json").read_text(encoding="utf-8"))["cases"])


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def engine(folder: Path, device: str) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine.load(folder, torch.float32, device, **SIZES)
    yield engine
    await engine.close()


async def greedy(engine: TransformersEngine, case: dict[str, Any], logprobs: int | None = None) -> list[Step]:
    prompt = case["input_ids"]
    return await steps(engine, prompt, Sampling(case["max_length"] - len(prompt), logprobs=logprobs))


async def beams(engine: TransformersEngine, case: dict[str, Any]) -> list[Step]:
    prompt = case["input_ids"]
    return await steps(engine, prompt, Sampling(case["beam4_max_length"] - len(prompt), num_beams=4))


def test_prompts_get_the_original_ids(folder: Path, cases: list[dict[str, Any]]) -> None:
    prompter = Prompter(AutoTokenizer.from_pretrained(folder))
    for case in cases:
        turns = [
            message
            for question, answer in case["history"]
            for message in (Message("user", question), Message("assistant", answer))
        ]
        assert prompter.encode([*turns, Message("user", case["query"])]) == case["input_ids"]


async def test_greedy_ids_are_the_originals_alone_and_together(
    engine: TransformersEngine, cases: list[dict[str, Any]]
) -> None:
    expected = [case["greedy_ids"] for case in cases]
    alone = [await greedy(engine, case) for case in cases]
    together = await asyncio.gather(*(greedy(engine, case) for case in cases), *(beams(engine, case) for case in cases))
    assert [[step.token for step in answer] for answer in alone] == expected
    assert [[step.token for step in answer] for answer in together[: len(cases)]] == expected


async def test_top_20_of_the_first_token_are_the_originals(
    engine: TransformersEngine, cases: list[dict[str, Any]]
) -> None:
    """Log-probabilities are logits less one number, so their distances are those of the logits."""
    for case in cases:
        first = (await greedy(engine, case, logprobs=20))[0]
        assert first.logprobs is not None
        ids, values = zip(*first.logprobs.top, strict=True)
        top = case["last_logits_top20"]
        assert list(ids) == top["ids"]
        below_best = [value - top["values"][0] for value in top["values"]]
        assert [value - values[0] for value in values] == pytest.approx(below_best, abs=1e-4)


async def test_beam_search_gives_the_originals_answer(
    engine: TransformersEngine, folder: Path, cases: list[dict[str, Any]]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for case in cases:
        ids = [step.token for step in await beams(engine, case)]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == case["beam4_response"]


async def test_half_precision_beams_answer_on_every_turn(
    folder: Path, device: str, cases: list[dict[str, Any]]
) -> None:
    """Where the original fails with "probability tensor contains inf, nan", greedy and sampled beams alike."""
    engine = TransformersEngine.load(folder, torch.float16, device, **SIZES)
    try:
        for case in cases:
            for choice in ({}, {"do_sample": True, "temperature": 0.01, "top_p": 0.7, "top_k": 50, "seed": 1}):
                answer = await steps(engine, case["input_ids"], Sampling(8, num_beams=4, **choice))  # type: ignore[arg-type]
                assert answer[-1].finish is not None
    finally:
        await engine.close()
