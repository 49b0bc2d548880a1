"""The converted checkpoint answers exactly as the original code does, in plain transformers with no option."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Many threads only wait for each other on a model this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, Any]:
    return dict(json.loads((golden / "expected.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def tokenizer(golden_converted: Path) -> Any:
    return AutoTokenizer.from_pretrained(golden_converted)


@pytest.fixture(scope="module")
def model(golden_converted: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(golden_converted).float()


def messages(case: dict[str, Any]) -> list[dict[str, str]]:
    turns = [(role, text) for turn in case["history"] for role, text in zip(("user", "assistant"), turn, strict=True)]
    return [{"role": role, "content": text} for role, text in [*turns, ("user", case["query"])]]


def test_prompts_get_the_original_ids(expected: dict[str, Any], tokenizer: Any) -> None:
    for case in expected["cases"]:
        assert tokenizer(case["prompt"])["input_ids"] == case["input_ids"]
        assert tokenizer.apply_chat_template(messages(case))["input_ids"] == case["input_ids"]


def test_logits_are_the_originals(expected: dict[str, Any], model: Any) -> None:
    for case in expected["cases"]:
        with torch.no_grad():
            logits = model(torch.tensor([case["input_ids"]])).logits[0, -1]
        top = case["last_logits_top20"]
        assert logits[top["ids"]].tolist() == pytest.approx(top["values"], abs=1e-4)
        assert logits.topk(20).indices.tolist() == top["ids"]
        assert float(logits.mean()) == pytest.approx(case["last_logits_mean"], abs=1e-4)


def test_greedy_answers_are_the_originals(expected: dict[str, Any], model: Any, tokenizer: Any) -> None:
    for case in expected["cases"]:
        prompt = torch.tensor([case["input_ids"]])
        output = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_length=case["max_length"], do_sample=False
        )
        ids = output[0, prompt.shape[1] :].tolist()
        assert ids == case["greedy_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == case["response"]


def test_tokenizer_cases_are_the_originals(expected: dict[str, Any], tokenizer: Any) -> None:
    for case in expected["tokenizer"]:
        assert tokenizer(case["text"], add_special_tokens=False)["input_ids"] == case["ids"]
        assert tokenizer(case["text"])["input_ids"] == case["with_prefix"]
        assert tokenizer.decode(case["ids"]) == case["decoded"]
