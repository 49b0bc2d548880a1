"""What Prometheus reads from each adapter, on the port for it."""

import os
import time
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import servers
from tests.chatglm2.conftest import require_djl

ASK = {"inputs": "Hi", "parameters": {"max_new_tokens": 5, "do_sample": False, "details": True}}


@pytest.fixture(scope="module", params=["serve", pytest.param("djl", marks=pytest.mark.djl)], ids=["fastapi", "djl"])
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    if request.param == "djl":
        require_djl()
    os.environ["CHAT_METRICS_PORT"] = str(servers.free_port())
    with servers.chat(request.param, tmp_path_factory.mktemp("metrics") / "log") as server:
        yield server
    del os.environ["CHAT_METRICS_PORT"]


def read() -> dict[str, float]:
    """Every sample by its name and labels' values."""
    answer = httpx.get(f"http://127.0.0.1:{os.environ['CHAT_METRICS_PORT']}/metrics")
    families = text_string_to_metric_families(answer.text)
    samples = (sample for family in families for sample in family.samples)
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


def test_requests_and_tokens_are_counted(watched: servers.Server) -> None:
    before = read()
    usage = watched.post("/invocations", ASK).json()["usage"]
    watched.post("/invocations", {"inputs": 3})
    after = read()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["chat_requests_total 200"] == 1
    assert grown["chat_requests_total 400"] == 1
    assert grown["chat_prompt_tokens_total"] == usage["prompt_tokens"]
    assert grown["chat_new_tokens_total"] == usage["completion_tokens"]
    assert grown["chat_first_token_seconds_count"] == 1
    assert grown["chat_next_token_seconds_count"] == usage["completion_tokens"] - 1
    assert after["chat_running"] == after["chat_waiting"] == 0


def test_running_answers_use_the_cache(watched: servers.Server) -> None:
    body = {"inputs": "Count to 1000.", "parameters": {"max_new_tokens": 200, "do_sample": False, "stream": True}}
    with httpx.stream("POST", f"{watched.url}/invocations", json=body, timeout=120) as response:
        lines = response.iter_lines()
        assert next(lines)
        during = read()
    assert during["chat_running"] == 1
    assert 0 < during["chat_cache_use"] < 1
    limit = time.monotonic() + 120
    while read()["chat_running"] and time.monotonic() < limit:
        time.sleep(0.1)
    assert read()["chat_running"] == 0


def test_metrics_are_not_on_the_port_of_the_service(watched: servers.Server) -> None:
    assert httpx.get(f"{watched.url}/metrics").status_code == 404
