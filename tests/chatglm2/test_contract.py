"""The seed contract, asked of each adapter over HTTP."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.servers import Server

QUESTION = "What is a data warehouse?"
GREEDY = {"max_new_tokens": 10, "do_sample": False}


def ask(chat: Server, inputs: str = QUESTION, history: Any = None, **parameters: Any) -> Any:
    body = {"inputs": inputs, "parameters": GREEDY | parameters, "history": history}
    response = chat.post("/invocations", body)
    assert response.status_code == 200, response.text
    return response.json()


def send(chat: Server, content: str | bytes, content_type: str = "application/json") -> httpx.Response:
    headers = {"Content-Type": content_type}
    return httpx.post(f"{chat.url}/invocations", content=content, headers=headers, timeout=120)


def test_ping_answers_200(chat: Server) -> None:
    assert httpx.get(f"{chat.url}/ping", timeout=60).status_code == 200


def test_answer_is_english_and_history_has_the_turn(chat: Server) -> None:
    reply = ask(chat, max_new_tokens=48)
    assert set(reply) == {"outputs", "history"}
    assert "data" in reply["outputs"].lower()
    assert reply["history"] == [[QUESTION, reply["outputs"]]]


def test_second_turn_continues_the_history(chat: Server) -> None:
    first = ask(chat)
    second = ask(chat, "Name one example.", first["history"])
    assert second["history"] == [*first["history"], ["Name one example.", second["outputs"]]]
    assert second["outputs"]


@pytest.mark.parametrize("history", [{}, {"history": None}, {"history": []}])
def test_history_may_be_missing_null_or_empty(chat: Server, history: dict[str, Any]) -> None:
    reply = chat.post("/invocations", {"inputs": QUESTION, "parameters": GREEDY} | history).json()
    assert reply["history"] == [[QUESTION, reply["outputs"]]]


def test_both_routes_give_the_same_answer(chat: Server) -> None:
    reply = chat.post("/predictions/chatglm2", {"inputs": QUESTION, "parameters": GREEDY})
    assert reply.json() == ask(chat)


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 2, "top_p": 1, "top_k": 0},
        {"temperature": 0},
        {"top_p": 0},
        {"top_k": 1_000_000},
        {"repetition_penalty": 0.01},
        {"seed": 2**63 - 1},
    ],
    ids=str,
)
def test_values_at_the_ends_of_their_ranges_are_taken(chat: Server, parameters: dict[str, Any]) -> None:
    assert ask(chat, do_sample=True, **parameters)["history"]


@pytest.mark.parametrize("parameters", [None, {}])
def test_defaults_sample_an_answer(chat: Server, parameters: Any) -> None:
    question = "hi " * 1990  # of the 2,048 tokens that are the default this leaves few, however the answer is sampled
    reply = chat.post("/invocations", {"inputs": question, "parameters": parameters}).json()
    assert reply["history"] == [[question, reply["outputs"]]]


def test_all_parameters_of_the_seed_are_taken(chat: Server) -> None:
    parameters = {"max_length": 64, "temperature": 0.01, "num_beams": 1, "do_sample": False, "top_p": 0.7}
    reply = chat.post("/invocations", {"inputs": QUESTION, "parameters": parameters | {"logits_processor": None}})
    assert reply.status_code == 200


def test_temperature_0_is_greedy(chat: Server) -> None:
    assert ask(chat, do_sample=True, temperature=0) == ask(chat)


def test_same_seed_same_answer(chat: Server) -> None:
    one, two = (ask(chat, do_sample=True, temperature=1.5, seed=7) for _ in range(2))
    other = ask(chat, do_sample=True, temperature=1.5, seed=8)
    assert one == two != other


def test_max_length_counts_the_prompt(chat: Server) -> None:
    prompt = ask(chat, details=True)["usage"]["prompt_tokens"]
    parameters = {"max_length": prompt + 5, "do_sample": False, "details": True}
    reply = chat.post("/invocations", {"inputs": QUESTION, "parameters": parameters}).json()
    assert reply["usage"] == {"prompt_tokens": prompt, "completion_tokens": 5, "total_tokens": prompt + 5}
    assert reply["finish_reason"] == "length"


def test_answer_ends_before_a_stop_string(chat: Server) -> None:
    whole = ask(chat)["outputs"]
    word = whole.split()[3]
    reply = ask(chat, stop=word, details=True)
    assert reply["outputs"] == whole[: whole.index(word)].rstrip()
    assert reply["finish_reason"] == "stop"


def test_repetition_penalty_changes_the_answer(chat: Server) -> None:
    assert ask(chat, repetition_penalty=2.0) != ask(chat)


@pytest.mark.usefixtures("beams")
def test_beams_answer_on_any_turn(chat: Server) -> None:
    first = ask(chat, num_beams=4, max_new_tokens=8)
    second = ask(chat, "And then?", first["history"], num_beams=4, max_new_tokens=8)
    assert len(second["history"]) == 2


def answers_alone_and_together(chat: Server, *kinds: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """What eight requests of several kinds get one after another, and at once."""
    jobs = [(f"What is {n} plus {n}?", kinds[n % len(kinds)]) for n in range(8)]
    alone = [ask(chat, question, **kind) for question, kind in jobs]
    with ThreadPoolExecutor(len(jobs)) as pool:
        return alone, list(pool.map(lambda job: ask(chat, job[0], **job[1]), jobs))


KINDS: list[dict[str, Any]] = [{}, {"do_sample": True, "seed": 3}, {"repetition_penalty": 1.3}]


def test_requests_at_once_get_the_answers_they_get_alone(chat: Server) -> None:
    alone, together = answers_alone_and_together(chat, *KINDS)
    assert together == alone


@pytest.mark.usefixtures("beams")
def test_beams_beside_other_requests_change_nothing(chat: Server) -> None:
    alone, together = answers_alone_and_together(chat, *KINDS, {"num_beams": 2, "max_new_tokens": 6})
    assert together == alone


def streamed(chat: Server, question: str, history: list[list[str]] | None = None) -> list[dict[str, Any]]:
    """The lines of a stream."""
    body = {"inputs": question, "history": history, "parameters": GREEDY | {"stream": True}}
    with httpx.stream("POST", f"{chat.url}/invocations", json=body, timeout=120) as response:
        return [json.loads(line) for line in response.iter_lines()]


def test_stream_adds_up_to_the_whole_answer(chat: Server) -> None:
    whole, lines = ask(chat, details=True), streamed(chat, QUESTION)
    assert "".join(line["delta"] for line in lines) == whole["outputs"]
    assert len(lines) > 5
    assert lines[-1] == whole | {"delta": lines[-1]["delta"]}


def test_streams_at_once_each_add_up_to_their_own_answer(chat: Server) -> None:
    questions = [f"What is {n} plus {n}?" for n in range(16)]
    with ThreadPoolExecutor(len(questions)) as pool:
        streams = list(pool.map(lambda question: streamed(chat, question), questions))
    for question, lines in zip(questions, streams, strict=True):
        assert "".join(line["delta"] for line in lines) == ask(chat, question)["outputs"]
        assert all("finish_reason" not in line for line in lines[:-1])
        assert lines[-1]["history"][0][0] == question


def test_lines_of_a_stream_end_where_clients_end_lines(chat: Server) -> None:
    history = [["one\u2028two\x85three", "four\u2029"]]
    assert streamed(chat, QUESTION, history)[-1]["history"][:1] == history


UNUSABLE: list[tuple[str, str, list[str]]] = [
    ("not JSON", "{", ["not JSON"]),
    ("empty", "", ["empty"]),
    ("not an object", "[1]", ["a list", "object"]),
    ("a string", '"my prompt"', ["a string", "object"]),
    ("messages that are numbers", '{"messages": [1]}', ["messages[0]", "object", "a number"]),
    ("more messages than the context has tokens", json.dumps({"inputs": "a", "history": [["", ""]] * 9000}), ["18001"]),
    ("no inputs", '{"input": "a"}', ["inputs", "missing"]),
    ("inputs of a wrong type", '{"inputs": 7}', ["inputs", "string", "number"]),
    ("empty prompt", '{"inputs": ""}', ["inputs", "empty"]),
    ("blank prompt", '{"inputs": " \\n"}', ["inputs", "empty"]),
    ("half a surrogate pair", '{"inputs": "\\ud800"}', ["inputs", "surrogate"]),
    ("unknown field", '{"inputs": "a", "histroy": []}', ['"histroy"', "did you mean history"]),
    ("unknown parameter", '{"inputs": "a", "parameters": {"top_b": 1}}', ['"top_b"', "did you mean top_p"]),
    ("parameters of a wrong type", '{"inputs": "a", "parameters": 3}', ["parameters", "3"]),
    (
        "temperature of a wrong type",
        '{"inputs": "a", "parameters": {"temperature": "hot"}}',
        ["parameters.temperature", "hot"],
    ),
    ("negative temperature", '{"inputs": "a", "parameters": {"temperature": -1}}', ["parameters.temperature", "-1"]),
    ("hot temperature", '{"inputs": "a", "parameters": {"temperature": 2.1}}', ["parameters.temperature", "2.1"]),
    ("NaN", '{"inputs": "a", "parameters": {"temperature": NaN}}', ["NaN"]),
    ("infinity", '{"inputs": "a", "parameters": {"temperature": 1e999}}', ["parameters.temperature"]),
    (
        "absurd number",
        '{"inputs": "a", "parameters": {"max_new_tokens": 1000000000000}}',
        ["max_new_tokens", "1000000000000"],
    ),
    ("absurd length", '{"inputs": "a", "parameters": {"max_length": 99999999}}', ["max_length", "99999999", "8192"]),
    ("no tokens", '{"inputs": "a", "parameters": {"max_new_tokens": 0}}', ["max_new_tokens", "0"]),
    ("too many beams", '{"inputs": "a", "parameters": {"num_beams": 9}}', ["num_beams", "9", "8"]),
    ("power too high", '{"inputs": "a", "parameters": {"length_penalty": 11}}', ["length_penalty", "10", "11"]),
    ("power too low", '{"inputs": "a", "parameters": {"length_penalty": -11}}', ["length_penalty", "-10", "-11"]),
    ("number for a boolean", '{"inputs": "a", "parameters": {"do_sample": 1}}', ["do_sample", "1"]),
    ("logits_processor", '{"inputs": "a", "parameters": {"logits_processor": []}}', ["logits_processor", "null"]),
    ("history of a wrong shape", '{"inputs": "a", "history": [["x"]]}', ["history[0]", "2"]),
    ("history of a wrong type", '{"inputs": "a", "history": [["x", 3]]}', ["history[0][1]", "string"]),
    ("prompt over max_length", '{"inputs": "a", "parameters": {"max_length": 4}}', ["max_length", "4"]),
    ("prompt over the context", json.dumps({"inputs": "a b " * 9000}), ["inputs", "8192"]),
    ("deep nesting", '{"inputs": ' + "[" * 50_000, ["nesting"]),
]


@pytest.mark.parametrize(("body", "said"), [case[1:] for case in UNUSABLE], ids=[case[0] for case in UNUSABLE])
def test_unusable_request_says_what_and_how_in_one_line(chat: Server, body: str, said: list[str]) -> None:
    response = send(chat, body)
    assert response.status_code == 400, response.text
    assert response.json()["code"] == 400
    message = response.json()["error"]
    assert "\n" not in message
    assert "Traceback" not in message
    assert all(part in message for part in said), message
    assert ask(chat, max_new_tokens=1)["history"]


def test_body_that_is_not_utf8_is_refused(chat: Server) -> None:
    response = send(chat, '{"inputs": "ä"}'.encode("latin-1"))
    assert response.status_code == 400
    assert "UTF-8" in response.json()["error"]


def test_other_content_type_is_refused(chat: Server) -> None:
    response = send(chat, '{"inputs": "a"}', "application/x-www-form-urlencoded")
    assert response.status_code == 400
    assert "application/json" in response.json()["error"]


def test_body_over_the_limit_is_413(chat: Server) -> None:
    response = send(chat, json.dumps({"inputs": "a" * 3_000_000}))
    assert response.status_code == 413
    assert "2097152" in response.json()["error"]


def test_unknown_route_is_404(chat: Server) -> None:
    assert httpx.get(f"{chat.url}/nothing", timeout=60).status_code == 404
    assert httpx.post(f"{chat.url}/models?url=file:///tmp", timeout=60).status_code == 404
