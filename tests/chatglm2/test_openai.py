"""The OpenAI contract, asked of each adapter with the official client."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from openai import APIError, BadRequestError, NotFoundError, OpenAI

from tests.servers import Server

QUESTION: Any = [{"role": "user", "content": "What is a data warehouse?"}]
SYSTEM: Any = {"role": "system", "content": "You are a pirate."}
GREEDY: Any = {"model": "chatglm2", "messages": QUESTION, "max_tokens": 12, "temperature": 0}
SAMPLED: Any = GREEDY | {"temperature": 1.5, "seed": 7}


@pytest.fixture(scope="module")
def client(chat: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{chat.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def say(client: OpenAI, **changes: Any) -> Any:
    return client.chat.completions.create(**(GREEDY | changes))


def text(client: OpenAI, **changes: Any) -> str:
    return str(say(client, **changes).choices[0].message.content)


def test_answer_is_that_of_the_seed_contract(client: OpenAI, chat: Server) -> None:
    parameters = {"max_new_tokens": 12, "do_sample": False, "details": True}
    seed = chat.post("/invocations", {"inputs": QUESTION[0]["content"], "parameters": parameters}).json()
    completion = say(client)
    assert completion.object == "chat.completion"
    assert completion.model == "chatglm2"
    assert completion.id.startswith("chatcmpl-")
    assert completion.created > 1_700_000_000
    assert completion.choices[0].message.role == "assistant"
    assert completion.choices[0].message.content == seed["outputs"]
    assert completion.choices[0].finish_reason == seed["finish_reason"] == "length"
    assert completion.choices[0].logprobs is None
    assert completion.usage.model_dump(exclude_none=True) == seed["usage"]


def test_body_with_messages_works_on_every_route(client: OpenAI, chat: Server) -> None:
    expected = text(client)
    for route in ("/invocations", "/predictions/chatglm2", "/v1/chat/completions"):
        reply = chat.post(route, GREEDY).json()
        assert reply["choices"][0]["message"]["content"] == expected


def test_system_message_and_earlier_turns_change_the_answer(client: OpenAI) -> None:
    system = [SYSTEM, *QUESTION]
    turns = [*QUESTION, {"role": "assistant", "content": "A store of data."}, {"role": "user", "content": "Why?"}]
    answers = {text(client), text(client, messages=system), text(client, messages=turns)}
    assert len(answers) == 3


def test_reply_can_be_sent_back_as_it_came(client: OpenAI) -> None:
    message = say(client).choices[0].message
    follow = {"role": "user", "content": "And why?"}
    assert text(client, messages=[*QUESTION, message, follow])
    assert text(client, messages=[*QUESTION, message.model_dump(), follow])


def test_neighbours_of_one_role_are_one_message(client: OpenAI) -> None:
    apart = [SYSTEM | {"role": "developer"}, SYSTEM, *QUESTION, {"role": "user", "content": "And a lake?"}]
    once = [SYSTEM | {"content": "You are a pirate.\n\nYou are a pirate."}]
    once += [QUESTION[0] | {"content": f"{QUESTION[0]['content']}\n\nAnd a lake?"}]
    assert say(client, messages=apart).usage == say(client, messages=once).usage
    assert text(client, messages=apart) == text(client, messages=once)


NOTHING: Any = {"parsed": None, "annotations": [], "tool_calls": [], "refusal": "", "reasoning_content": ""}
ASKS_FOR_NOTHING: list[dict[str, Any]] = [
    {"tools": [], "tool_choice": "none", "functions": [], "function_call": "none", "logit_bias": {}, "metadata": {}},
    {"store": False, "service_tier": "auto", "modalities": ["text"], "reasoning_effort": "none", "top_logprobs": 0},
    {"user": "a", "safety_identifier": "b", "prompt_cache_key": "c", "response_format": {"type": "text"}},
    {"tool_choice": "auto", "tools": [], "function_call": "auto"},
    {"messages": [{**QUESTION[0], "name": "a"}]},
    {"messages": [{**QUESTION[0], **NOTHING}]},
]


@pytest.mark.parametrize("fields", ASKS_FOR_NOTHING, ids=lambda fields: next(iter(fields)))
def test_what_asks_for_nothing_changes_nothing(client: OpenAI, fields: dict[str, Any]) -> None:
    assert text(client, extra_body=fields) == text(client)


def test_content_may_be_parts_of_text(client: OpenAI) -> None:
    parts = [{"type": "text", "text": "What is a"}, {"type": "text", "text": "data warehouse?", "cache_control": None}]
    joined = [{"role": "user", "content": "What is a\ndata warehouse?"}]
    assert text(client, messages=[{"role": "user", "content": parts}]) == text(client, messages=joined)


def test_stream_adds_up_to_the_whole_answer(client: OpenAI) -> None:
    chunks = list(say(client, stream=True, stream_options={"include_usage": True, "include_obfuscation": False}))
    whole = say(client)
    assert chunks[0].choices[0].delta.role == "assistant"
    deltas = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert len([delta for delta in deltas if delta]) > 5
    assert "".join(deltas) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_without_usage_has_none(client: OpenAI) -> None:
    chunks = list(say(client, stream=True))
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_stream_ends_with_done(chat: Server) -> None:
    url = f"{chat.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=GREEDY | {"stream": True}, timeout=120) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line for line in response.iter_lines() if line]
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"


def test_stop_strings_end_the_answer(client: OpenAI) -> None:
    whole = text(client)
    word = whole.split()[3]
    for stop in (word, ["never said", word]):
        choice = say(client, stop=stop).choices[0]
        assert choice.message.content == whole[: whole.index(word)].rstrip()
        assert choice.finish_reason == "stop"


def test_same_seed_same_answer_also_beside_others(client: OpenAI) -> None:
    alone = text(client, **SAMPLED)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: text(client, **SAMPLED | {"seed": seed}), [7, 1, 2, 3, 7, 4, 5, 6]))
    assert together[0] == together[4] == alone
    assert len(set(together)) > 4


def test_n_answers_draw_apart_and_the_first_is_that_of_one(client: OpenAI) -> None:
    completion = say(client, **SAMPLED, n=3)
    answers = [choice.message.content for choice in completion.choices]
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert len(set(answers)) == 3
    assert answers[0] == text(client, **SAMPLED)
    assert completion.usage.completion_tokens == 36


def test_n_answers_stream_at_once(client: OpenAI) -> None:
    answers = {0: "", 1: ""}
    for chunk in say(client, **SAMPLED, n=2, stream=True):
        answers[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    whole = say(client, **SAMPLED, n=2)
    assert answers == {choice.index: choice.message.content for choice in whole.choices}


def test_logprobs_are_those_of_the_answer(client: OpenAI) -> None:
    choice = say(client, logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    said = b"".join(bytes(token.bytes) for token in tokens).decode()
    assert said.strip() == choice.message.content
    assert len(tokens) == 12
    for token in tokens:
        best = token.top_logprobs[0]
        assert (best.token, best.logprob) == (token.token, token.logprob)
        assert 0 >= best.logprob >= token.top_logprobs[1].logprob >= token.top_logprobs[2].logprob
        assert len(token.top_logprobs) == 3


def test_logprobs_of_a_stream_are_those_of_the_whole(client: OpenAI) -> None:
    whole = say(client, logprobs=True).choices[0].logprobs.content
    parts = [chunk.choices[0].logprobs for chunk in say(client, logprobs=True, stream=True)]
    streamed = [token for part in parts if part for token in part.content]
    assert [token.token for token in streamed] == [token.token for token in whole]
    assert [token.logprob for token in streamed] == pytest.approx([token.logprob for token in whole], abs=1e-4)
    assert whole[0].top_logprobs == []


def test_logprobs_do_not_change_the_answer(client: OpenAI) -> None:
    assert text(client, logprobs=True) == text(client)
    assert text(client, **SAMPLED, logprobs=True) == text(client, **SAMPLED)


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_penalties_repeat_less(client: OpenAI, penalty: str) -> None:
    ask: Any = {"messages": [{"role": "user", "content": "Say the word data twenty times."}], "max_tokens": 40}
    plain, penalised = text(client, **ask), text(client, **ask, **{penalty: 2.0})
    assert penalised.lower().count("data") < plain.lower().count("data")


def test_max_completion_tokens_is_max_tokens(client: OpenAI) -> None:
    short: Any = {name: value for name, value in GREEDY.items() if name != "max_tokens"}
    completion = client.chat.completions.create(**short, max_completion_tokens=5)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 5


def test_defaults_answer(client: OpenAI) -> None:
    completion = client.chat.completions.create(model="chatglm2", messages=QUESTION, stop=".", user="somebody", seed=1)
    assert completion.choices[0].message.content


def test_unknown_model_is_404_and_known_ones_are_named(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as refusal:
        say(client, model="gpt-9")
    assert '"gpt-9"' in str(refusal.value.body)
    assert "chatglm2" in str(refusal.value.body)


def test_embedded_model_answers_by_its_own_name(client: OpenAI) -> None:
    assert text(client, model="smollm2-135m-instruct") == text(client)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
CACHED = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({"tools": [TOOL]}, ["tools", "not supported"]),
    ({"tool_choice": "required"}, ["tool_choice", "not supported"]),
    ({"response_format": {"type": "json_object"}}, ["response_format.type", "json_object"]),
    ({"logit_bias": {"5": 1}}, ["logit_bias", "not supported"]),
    ({"extra_body": {"top_b": 1}}, ['"top_b"', "did you mean top_p"]),
    ({"parallel_tool_calls": False, "tool_choice": "auto", "tools": [TOOL]}, ["tools", "not supported"]),
    ({"store": True}, ["store", "not supported"]),
    ({"messages": []}, ["messages: is empty", "user"]),
    ({"messages": [{"role": "user", "content": [IMAGE]}]}, ["messages[0].content", "image_url", "text"]),
    ({"messages": [{"role": "user", "content": [CACHED]}]}, ["messages[0].content", "nothing else"]),
    ({"messages": [{"role": "user", "content": None}]}, ["messages[0].content", "string", "null"]),
    ({"messages": [{"role": "user"}]}, ["messages[0].content", "missing"]),
    ({"messages": [{"role": "tool", "content": "a"}]}, ["messages[0].role", "tool", "system, user or assistant"]),
    ({"messages": [{**QUESTION[0], "name": "a"}, *QUESTION]}, ["messages[1].name", "user", "content"]),
    ({"messages": [*QUESTION, *QUESTION, SYSTEM, *QUESTION]}, ["messages[2].role", "system after user"]),
    ({"messages": [{"role": "assistant", "content": "a"}]}, ["messages[0].role", "assistant first", "user"]),
    ({"messages": [{**QUESTION[0], "tool_calls": [TOOL]}]}, ["messages[0].tool_calls", "not supported"]),
    ({"messages": [{**QUESTION[0], "nmae": "a"}]}, ["messages[0]", "did you mean name"]),
    ({"messages": [*QUESTION, {"role": "assistant", "content": "a"}]}, ["messages", "end with", "user"]),
    ({"messages": [{"role": "system", "content": "a"}]}, ["messages", "end with", "user"]),
    ({"messages": [{"role": "user", "content": " "}]}, ["messages", "empty"]),
    ({"messages": "hello"}, ["messages", "list", "string"]),
    ({"temperature": 3}, ["temperature", "2", "3"]),
    ({"top_p": -0.1}, ["top_p", "0", "-0.1"]),
    ({"n": 0}, ["n: ", "1", "0"]),
    ({"n": 99}, ["n: ", "8", "99"]),
    ({"max_tokens": 0}, ["max_tokens", "0"]),
    ({"max_tokens": 10**9}, ["max_tokens", str(10**9), "4096"]),
    ({"max_tokens": 5, "max_completion_tokens": 6}, ["max_tokens", "max_completion_tokens"]),
    ({"top_logprobs": 2}, ["top_logprobs", "logprobs"]),
    ({"logprobs": True, "top_logprobs": 21}, ["top_logprobs", "20", "21"]),
    ({"presence_penalty": 2.5}, ["presence_penalty", "2.5"]),
    ({"stream_options": {"include_usage": True}}, ["stream_options", "stream"]),
    ({"stream": True, "stream_options": {"include_usgae": True}}, ["stream_options", "did you mean include_usage"]),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, ["stream_options.include_obfuscation"]),
    ({"stop": [""]}, ["stop[0]"]),
    ({"seed": "x"}, ["seed", '"x"']),
    ({"extra_body": {"inputs": "a"}}, ["inputs", "messages", "one of them"]),
    ({"messages": [{"role": "user", "content": "a b " * 9000}]}, ["messages", "8192"]),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED, ids=[str(case[1]) for case in REFUSED])
def test_what_cannot_be_used_is_refused_by_name_in_one_line(
    client: OpenAI, changes: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(BadRequestError) as refusal:
        say(client, **changes)
    body: Any = refusal.value.response.json()
    assert body["code"] == 400
    assert "\n" not in body["error"]
    assert all(part in body["error"] for part in said), body["error"]


@pytest.mark.parametrize("name", ["tools", "stop", "n", "seed", "stream", "logprobs", "response_format", "temperature"])
def test_null_means_left_out(client: OpenAI, name: str) -> None:
    assert text(client, extra_body={name: None}, max_tokens=1)


def test_error_inside_a_stream_reaches_the_client(chat: Server) -> None:
    with OpenAI(base_url=f"{chat.url}/v1", api_key="none", max_retries=0) as client, pytest.raises(APIError):
        list(say(client, stream=True, temperature=9))
