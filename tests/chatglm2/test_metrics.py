"""What Prometheus reads from each adapter, on the port for it."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.servers import Server, wait_until

ASK = {"inputs": "Hi", "parameters": {"max_new_tokens": 5, "do_sample": False, "details": True}}


def read(chat: Server) -> dict[str, float]:
    """Every sample by its name and labels' values."""
    answer = httpx.get(chat.metrics_url, timeout=60)
    families = text_string_to_metric_families(answer.text)
    samples = (sample for family in families for sample in family.samples)
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


def test_requests_and_tokens_are_counted(chat: Server) -> None:
    before = read(chat)
    usage = chat.post("/invocations", ASK).json()["usage"]
    chat.post("/invocations", {"inputs": 3})
    chat.post("/invocations", {"inputs": "a" * 3_000_000})
    after = read(chat)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["chat_requests_total 200"] == 1
    assert grown["chat_requests_total 400"] == 1
    assert grown["chat_requests_total 413"] == 1
    assert grown["chat_prompt_tokens_total"] == usage["prompt_tokens"]
    assert grown["chat_new_tokens_total"] == usage["completion_tokens"]
    assert grown["chat_first_token_seconds_count"] == 1
    assert grown["chat_next_token_seconds_count"] == usage["completion_tokens"] - 1
    assert after["chat_running"] == after["chat_waiting"] == 0


def test_a_stream_is_counted_once(chat: Server) -> None:
    before = read(chat)
    body = ASK | {"parameters": ASK["parameters"] | {"stream": True}}  # type: ignore[operator]
    assert chat.post("/invocations", body).status_code == 200
    wait_until(lambda: read(chat)["chat_requests_total 200"] > before.get("chat_requests_total 200", 0))
    after = read(chat)
    names = [name for name in after if name.startswith("chat_requests_total")]
    assert sum(after[name] - before.get(name, 0) for name in names) == 1


def test_running_answers_use_the_cache(chat: Server) -> None:
    body = {"inputs": "Write a long story.", "parameters": {"max_new_tokens": 200}}
    readings: list[dict[str, float]] = []
    limit = time.monotonic() + 300
    with ThreadPoolExecutor() as clients:  # asked again where all readings of a busy machine came before or after
        while not any(reading["chat_running"] and 0 < reading["chat_cache_use"] < 1 for reading in readings):
            assert time.monotonic() < limit, [
                {name: reading[f"chat_{name}"] for name in ("waiting", "running", "cache_use")} for reading in readings
            ]
            answers = [clients.submit(chat.post, "/invocations", body) for _ in range(3)]
            while not all(answer.done() for answer in answers):
                readings.append(read(chat))
            assert [answer.result().status_code for answer in answers] == [200] * 3
    assert read(chat)["chat_running"] == 0


def test_metrics_are_not_on_the_port_of_the_service(chat: Server) -> None:
    assert httpx.get(f"{chat.url}/metrics", timeout=60).status_code == 404
