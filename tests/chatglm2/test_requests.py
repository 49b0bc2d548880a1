"""Request bodies: whatever comes in, a request or one clear line goes out."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm2.contracts import parse
from chatglm2.contracts.openai import ChatBody
from chatglm2.contracts.seed import Parameters
from chatglm2.engines.base import Limits, Sampling
from chatglm2.errors import BadRequest
from chatglm2.prompt import Message

LIMITS = Limits(context=8192, beams=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def body(**fields: Any) -> bytes:
    return json.dumps({"inputs": "a"} | fields).encode()


def sampling(prompt_tokens: int = 10, most: int = 4096, **parameters: Any) -> Sampling:
    return parse(body(parameters=parameters), "id").sampling(prompt_tokens, LIMITS, most)


def refusal(content: str) -> str:
    with pytest.raises(BadRequest) as refused:
        parse(content.encode(), "id")
    return str(refused.value)


def check_refusal(content: bytes) -> None:
    refusal = ""
    try:
        parse(content, "id").sampling(10, LIMITS, 4096)
    except BadRequest as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert len(refusal) < 600


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_line(content: bytes) -> None:
    check_refusal(content)


@given(st.dictionaries(st.sampled_from(["inputs", "parameters", "history", "x"]), JSON))
def test_any_json_is_taken_or_refused_in_one_line(fields: dict[str, Any]) -> None:
    check_refusal(json.dumps(fields).encode())


@given(st.dictionaries(st.sampled_from(sorted(Parameters.model_fields)), JSON))
def test_any_parameters_are_taken_or_refused_in_one_line(parameters: dict[str, Any]) -> None:
    check_refusal(body(parameters=parameters))


OPENAI_FIELDS = sorted({*ChatBody.model_fields, "tools", "functions", "logit_bias", "unheard_of"})


@given(st.dictionaries(st.sampled_from(OPENAI_FIELDS), JSON))
def test_any_openai_fields_are_taken_or_refused_in_one_line(fields: dict[str, Any]) -> None:
    check_refusal(json.dumps({"messages": [{"role": "user", "content": "a"}]} | fields).encode())


@given(st.lists(st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls"]), JSON), max_size=3))
def test_any_messages_are_taken_or_refused_in_one_line(messages: list[Any]) -> None:
    check_refusal(json.dumps({"messages": messages}).encode())


def test_openai_defaults_are_those_of_its_reference() -> None:
    request = parse(json.dumps({"messages": [{"role": "user", "content": "a"}]}).encode(), "id")
    assert request.sampling(10, LIMITS, 4096) == Sampling(4096, do_sample=True)
    assert request.sampling(8000, LIMITS, 4096) == Sampling(192, do_sample=True)
    assert (request.choices, request.stop, request.stream, request.model) == (1, (), False, None)


def test_history_becomes_messages() -> None:
    request = parse(body(history=[["q1", "a1"], ["q2", "a2"]]), "id")
    turns = [("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2"), ("user", "a")]
    assert request.messages == [Message(role, text) for role, text in turns]  # type: ignore[arg-type]


def test_defaults_are_those_of_the_original_chat_call() -> None:
    assert sampling() == Sampling(2038, do_sample=True, temperature=0.95, top_k=50, top_p=0.7)


@pytest.mark.parametrize("name", sorted(Parameters.model_fields))
def test_null_means_the_default(name: str) -> None:
    parameters: dict[str, Any] = {name: None}
    assert sampling(**parameters) == sampling()


@pytest.mark.parametrize("parameters", [{"do_sample": False}, {"temperature": 0}, {"temperature": 1e-9}])
def test_greedy_ignores_the_warpers(parameters: dict[str, Any]) -> None:
    assert sampling(top_k=3, top_p=0.1, **parameters) == Sampling(2038)


def test_max_new_tokens_wins_over_max_length() -> None:
    assert sampling(max_new_tokens=5, max_length=11).max_new_tokens == 5


def test_max_length_stops_at_the_cap_of_the_service() -> None:
    assert sampling(max_length=8000, most=100).max_new_tokens == 100


@pytest.mark.parametrize(
    ("prompt_tokens", "parameters", "numbers"),
    [
        (8192, {}, ["8192"]),
        (3000, {}, ["2048", "3000", "8192"]),
        (10, {"max_length": 10}, ["10"]),
        (10, {"max_length": 9000}, ["9000", "8192"]),
        (8000, {"max_new_tokens": 200}, ["200", "192", "8000", "8192"]),
        (10, {"max_new_tokens": 5000}, ["5000", "4096"]),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(
    prompt_tokens: int, parameters: dict[str, Any], numbers: list[str]
) -> None:
    with pytest.raises(BadRequest) as refusal:
        sampling(prompt_tokens, **parameters)
    assert all(number in str(refusal.value) for number in numbers)


def test_refusals_never_repeat_the_prompt() -> None:
    with pytest.raises(BadRequest) as refusal:
        parse(json.dumps({"inputs": "a", "history": [["secret question", 3]]}).encode(), "id")
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ('"inputs": "b"', '"inputs" 2 times'),
        ('"parameters": {"seed": 1, "top_p": 1, "seed": 1}', '"seed" 2 times'),
    ],
)
def test_a_name_sent_twice_is_refused(fields: str, said: str) -> None:
    assert said in refusal(f'{{"inputs": "a", {fields}}}')


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ('"\\ud800": 1', 'the name "\\ud800"'),
        ('"parameters": {"\\ud800": 1}', 'parameters: the name "\\ud800"'),
        ('"parameters": {"stop": ""}', "parameters.stop[0]: value should have at least 1 character"),
        (f'"parameters": {{"stop": "{257 * "a"}"}}', "at most 256 characters"),
        ('"parameters": {"early_stopping": "one item"}', 'got "one item"'),
    ],
)
def test_names_and_texts_are_spoken_of_as_such(fields: str, said: str) -> None:
    assert said in refusal(f'{{"inputs": "a", {fields}}}')


def test_of_a_long_unknown_name_only_the_beginning_is_looked_at() -> None:
    name = "temperature" + 40 * "_" + "repetition_penalty"
    assert "did you mean temperature?" in refusal(json.dumps({"inputs": "a", "parameters": {name: 1}}))
