"""The original's answers on the golden checkpoint, over HTTP, from each adapter."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.chatglm2.conftest import ADAPTER_NAMES, ADAPTERS, start
from tests.golden import CASES, golden_folder
from tests.servers import Server


@pytest.fixture(params=range(CASES))
def case(request: pytest.FixtureRequest) -> Any:
    """What the original was asked, and all that it gave."""
    return json.loads((golden_folder() / "expected.json").read_text())["cases"][request.param]


@pytest.fixture(scope="module", params=ADAPTERS, ids=ADAPTER_NAMES)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The golden checkpoint in float32, converted at the start."""
    model = str(golden_folder())
    folder = tmp_path_factory.mktemp("golden")
    env = {"CHAT_CACHE_DIR": str(folder / "cache")}
    with start(request.param, folder / "log", env, "--model", model, "--dtype", "float32") as server:
        yield server


def ask(server: Server, case: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    body = {"inputs": case["query"], "history": case["history"], "parameters": {"do_sample": False} | parameters}
    response = server.post("/invocations", body)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def test_answer_and_history_are_the_originals(golden: Server, case: dict[str, Any]) -> None:
    reply = ask(golden, case, max_length=case["max_length"], details=True)
    assert reply["outputs"] == case["response"]
    assert reply["history"] == case["history_out"]
    assert reply["usage"]["prompt_tokens"] == len(case["input_ids"])
    assert reply["usage"]["completion_tokens"] == len(case["greedy_ids"])


def test_stream_shows_what_the_original_shows(golden: Server, case: dict[str, Any]) -> None:
    parameters = {"do_sample": False, "max_length": case["max_length"], "stream": True}
    body = {"inputs": case["query"], "history": case["history"], "parameters": parameters}
    with httpx.stream("POST", f"{golden.url}/invocations", json=body, timeout=60) as response:
        lines = [json.loads(line) for line in response.iter_lines()]
    shown = [line["outputs"] for line in lines if line["delta"] and not line["outputs"].endswith("\ufffd")]
    assert shown == list(dict.fromkeys(case["stream_responses"]))


@pytest.mark.usefixtures("beams")
def test_beam_search_is_the_originals(golden: Server, case: dict[str, Any]) -> None:
    reply = ask(golden, case, max_length=case["beam4_max_length"], num_beams=4)
    assert reply["outputs"] == case["beam4_response"]


def test_openai_contract_gives_the_originals_answer_and_top_20(golden: Server, case: dict[str, Any]) -> None:
    turns = [(role, text) for turn in case["history"] for role, text in zip(("user", "assistant"), turn, strict=True)]
    messages = [{"role": role, "content": text} for role, text in [*turns, ("user", case["query"])]]
    most = case["max_length"] - len(case["input_ids"])
    body = {"messages": messages, "temperature": 0, "max_tokens": most, "logprobs": True, "top_logprobs": 20}
    reply = golden.post("/v1/chat/completions", body).json()
    assert reply["choices"][0]["message"]["content"] == case["response"]
    assert reply["usage"]["prompt_tokens"] == len(case["input_ids"])
    top = case["last_logits_top20"]["values"]
    found = [other["logprob"] for other in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]]
    assert [value - found[0] for value in found] == pytest.approx([value - top[0] for value in top], abs=1e-4)
