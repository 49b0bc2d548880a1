"""Any bytes at all, and bodies near the two contracts: always a status of the contract, one line of error, no hang.

`FUZZ=100000 pytest tests/chatglm2/test_fuzz.py` sends that many of each kind. The model is tiny with random weights, so
that a request takes milliseconds; everything else is what serves.
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chatglm2.tiny import TinyService

MANY = settings(max_examples=int(os.environ.get("FUZZ", "100")))
STATUSES = {200, 400, 404, 413, 429}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
small = st.integers(-1, 9) | st.floats(-1, 3) | st.booleans()
words = st.text(max_size=30) | st.sampled_from(
    ["Hi", "<|im_start|>", "\ud800", "\0", "[Round 0]", "用户: 你好", "🜁" * 9]
)
turn = st.tuples(words, words).map(list)


def some_of(known: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the known fields with values that may fit, a few with any value, and perhaps an unknown one."""
    fields = st.fixed_dictionaries({}, optional={name: near | near | near | anything for name, near in known.items()})
    return st.builds(
        lambda given, more: given | more, fields, st.just({}) | st.dictionaries(words, anything, max_size=1)
    )


SEED = some_of(
    {
        "inputs": words,
        "history": st.lists(turn, max_size=3),
        "parameters": some_of(
            dict.fromkeys(
                ("max_length", "max_new_tokens", "temperature", "top_p", "top_k", "num_beams", "repetition_penalty"),
                small,
            )
            | dict.fromkeys(("do_sample", "stream", "details", "remove_invalid_values"), st.booleans())
            | {"seed": st.integers(), "stop": words | st.lists(words, max_size=3), "logits_processor": st.none()}
        ),
    }
)
OPENAI = some_of(
    {
        "model": st.just("chatglm2") | words,
        "messages": st.lists(
            some_of({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": words}), max_size=4
        ),
        "stream_options": some_of({"include_usage": st.booleans()}),
        "stop": words | st.lists(words, max_size=3),
    }
    | dict.fromkeys(("max_tokens", "temperature", "top_p", "n", "top_logprobs", "seed"), small)
    | dict.fromkeys(("presence_penalty", "frequency_penalty"), small)
    | dict.fromkeys(("stream", "logprobs"), st.booleans())
)


@pytest.fixture(scope="module")
def asked() -> Iterator[TinyService]:
    service = TinyService(max_new_tokens=4, max_body_bytes=100_000)
    yield service
    service.close()


def check(reply: httpx.Response) -> None:
    assert reply.status_code in STATUSES, reply.text
    if reply.status_code != 200:
        error = reply.json()
        assert set(error) == {"error", "code"}
        assert error["code"] == reply.status_code
        assert "\n" not in error["error"]
    else:
        assert '"code": 500' not in reply.text


@MANY
@given(body=st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()))
def test_any_bytes(asked: TinyService, body: bytes) -> None:
    check(asked.post(body))


@MANY
@given(body=SEED)
def test_near_the_seed_contract(asked: TinyService, body: dict[str, Any]) -> None:
    check(asked.post(json.dumps(body).encode()))


@MANY
@given(body=OPENAI)
def test_near_the_openai_contract(asked: TinyService, body: dict[str, Any]) -> None:
    check(asked.post(json.dumps(body).encode()))
