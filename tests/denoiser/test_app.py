"""The app with parts of the test's own: no model, a slow encoder, an API key, a bug."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import httpx
import numpy as np
import pytest
from fastapi import Request
from pydantic import SecretStr

from denoiser.api.app import create_app
from denoiser.api.gate import read_limited
from denoiser.api.requests import Limits
from denoiser.api.service import Service
from denoiser.api.uploads import Patience, receive
from denoiser.errors import CheckpointError, SettingsError, SlowError
from denoiser.model.checkpoint import BUNDLED_CHECKPOINT
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import Embeddings, Tokens
from denoiser.settings import Settings, read_settings
from tests.denoiser.servers import running

TEXT = {"texts": ["hello there"]}


class SlowEncoder:
    """Waits for the test before it answers."""

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return [[1] for _ in texts]

    def __init__(self) -> None:
        self.started, self.go_on = threading.Semaphore(0), threading.Event()

    def encode_tokens(self, texts: Sequence[Tokens]) -> Embeddings:
        self.started.release()
        assert self.go_on.wait(240)
        return np.full((len(texts), 384), 384**-0.5, dtype=np.float32)


class BrokenEncoder:
    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        raise RuntimeError(f"secret {texts}")

    def encode_tokens(self, texts: Sequence[Tokens]) -> Embeddings:
        raise RuntimeError(f"secret {texts}")


@pytest.fixture
def encoder_in_use() -> SlowEncoder:
    return SlowEncoder()


@pytest.fixture
def slow(denoiser: Denoiser, encoder_in_use: SlowEncoder) -> Iterator[str]:
    service = Service(denoiser, encoder_in_use, Limits(10, 10))
    with running(create_app(lambda: service, Settings(queue_size=2))) as address:
        wait_until_ready(address)
        yield address
        encoder_in_use.go_on.set()


def wait_until_ready(address: str) -> None:
    while httpx.get(f"{address}/ping", timeout=60).status_code != 200:
        pass


def wait_for_metric(address: str, line: str) -> None:
    limit = time.monotonic() + 60
    while line not in (page := httpx.get(f"{address}/metrics", timeout=60).text):
        assert time.monotonic() < limit, page


def test_while_no_model_is_loaded_the_service_says_so() -> None:
    failures: list[Exception] = []

    def load() -> Service:
        raise CheckpointError("no checkpoint")

    with running(create_app(load, Settings(), failures.append)) as address:
        health = httpx.get(f"{address}/health", timeout=60)
        assert health.status_code == 200
        assert health.json() == {"status": "not_ready", "model_loaded": False, "device": None}
        assert httpx.get(f"{address}/ping", timeout=60).status_code == 503
        reply = httpx.post(f"{address}/denoise/text", json=TEXT, timeout=120)
        assert reply.status_code == 503
        assert "no model is loaded" in reply.json()["detail"]
    assert str(failures[0]) == "no checkpoint"


def test_a_full_queue_is_refused_and_health_still_answers(slow: str, encoder_in_use: SlowEncoder) -> None:
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(httpx.post, f"{slow}/denoise/text", json=TEXT, timeout=60) for _ in range(2)]
        assert encoder_in_use.started.acquire(timeout=240)
        wait_for_metric(slow, "denoiser_waiting 2.0")
        reply = httpx.post(f"{slow}/denoise/text", json={"texts": []}, timeout=60)
        assert reply.status_code == 429
        assert reply.headers["retry-after"] == "1"
        assert httpx.get(f"{slow}/health", timeout=60).json()["status"] == "healthy"
        encoder_in_use.go_on.set()
        assert [w.result().status_code for w in waiting] == [200, 200]


def test_clients_that_leave_free_their_places_and_what_is_not_begun_is_dropped(
    slow: str, encoder_in_use: SlowEncoder
) -> None:
    body = b'{"texts": ["hello there"]}'
    request = b"POST /denoise/text HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    address = ("127.0.0.1", int(slow.rpartition(":")[2]))
    with socket.create_connection(address) as first, socket.create_connection(address) as second:
        first.sendall(request)
        assert encoder_in_use.started.acquire(timeout=240)
        second.sendall(request)
        wait_for_metric(slow, "denoiser_waiting 2.0")
    wait_for_metric(slow, "denoiser_waiting 0.0")
    wait_for_metric(slow, 'denoiser_requests_total{route="/denoise/text",status="499"} 2.0')
    encoder_in_use.go_on.set()
    assert httpx.post(f"{slow}/denoise/text", json=TEXT, timeout=60).status_code == 200
    assert encoder_in_use.started.acquire(blocking=False)
    assert not encoder_in_use.started.acquire(blocking=False)


def test_a_bug_is_a_500_with_a_request_id_and_no_details(denoiser: Denoiser) -> None:
    service = Service(denoiser, BrokenEncoder(), Limits(10, 10))
    with running(create_app(lambda: service, Settings())) as address:
        wait_until_ready(address)
        reply = httpx.post(f"{address}/denoise/text", json=TEXT, timeout=120)
        assert reply.status_code == 500
        assert reply.headers["x-request-id"] in reply.json()["detail"]
        assert "secret" not in reply.text


@pytest.mark.parametrize(
    "path", ["/", "/denoise/text", "/denoise/embedding", "/invocations", "/metrics", "/docs", "/nope"]
)
def test_with_an_api_key_every_other_route_needs_it(denoiser: Denoiser, path: str) -> None:
    service = Service(denoiser, SlowEncoder(), Limits(10, 10))
    with running(create_app(lambda: service, Settings(api_key=SecretStr("s3cret")))) as address:
        assert {httpx.get(address + route, timeout=60).status_code for route in ("/ping", "/health")} == {200}
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            reply = httpx.post(address + path, headers=header, timeout=60)
            assert reply.status_code == 401
            assert reply.headers["www-authenticate"] == "Bearer"
        assert httpx.get(address + path, timeout=60, headers={"Authorization": "Bearer s3cret"}).status_code in (
            200,
            404,
            405,
        )


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_the_key_may_hold_any_letters_and_the_scheme_is_in_any_case(denoiser: Denoiser, scheme: str) -> None:
    service = Service(denoiser, SlowEncoder(), Limits(10, 10))
    with running(create_app(lambda: service, Settings(api_key=SecretStr("clé")))) as address:
        headers = {b"Authorization": f"{scheme} clé".encode()}
        assert httpx.get(f"{address}/metrics", headers=headers, timeout=60).status_code == 200
        headers = {b"Authorization": f"{scheme} clè".encode()}
        assert httpx.get(f"{address}/metrics", headers=headers, timeout=60).status_code == 401


def test_the_openapi_document_names_the_key_the_refusals_and_other_kinds_of_reply(denoiser: Denoiser) -> None:
    service = Service(denoiser, SlowEncoder(), Limits(10, 10))
    document = create_app(lambda: service, Settings(api_key=SecretStr("s3cret"))).openapi()
    paths, unusable = document["paths"], {"401", "408", "413", "415", "422", "429", "503"}
    assert unusable <= set(paths["/denoise/text"]["post"]["responses"])
    assert unusable | {"403", "409"} <= set(paths["/upload/"]["post"]["responses"])
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert "security" in paths["/jobs"]["get"]
    assert "security" not in paths["/health"]["get"]
    kinds = [paths[path]["get"]["responses"]["200"]["content"] for path in ("/metrics", "/jobs/{job_id}/events")]
    assert [list(kind) for kind in kinds] == [["text/plain"], ["text/event-stream"]]
    openai = paths["/v1/embeddings"]["post"]["responses"]["422"]["content"]["application/json"]["schema"]
    assert openai == {"$ref": "#/components/schemas/OpenAIRefusal"}


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL_PATH", "QUEUE_SIZE", "API_KEY"):
        monkeypatch.setenv(name, "")
    settings = read_settings()
    assert (settings.model_path, settings.queue_size, settings.required_key) == (BUNDLED_CHECKPOINT, 128, None)


def test_space_around_the_key_is_not_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", " s3cret\r")
    assert read_settings().required_key == "s3cret"
    monkeypatch.setenv("API_KEY", " \r")
    with pytest.raises(SettingsError, match="API_KEY"):
        read_settings()


def test_a_client_that_leaves_while_it_sends_is_no_bug(slow: str) -> None:
    with socket.create_connection(("127.0.0.1", int(slow.rpartition(":")[2]))) as connection:
        connection.sendall(b"POST /denoise/text HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
    wait_for_metric(slow, 'denoiser_requests_total{route="/denoise/text",status="499"} 1.0')


async def test_a_body_that_stops_arriving_is_refused_and_its_limit_is_named() -> None:
    async def nothing_more() -> dict[str, object]:
        await asyncio.Event().wait()
        return {}

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    request = Request({"type": "http", "headers": headers}, nothing_more)
    with pytest.raises(SlowError, match=r"within 0\.01 seconds") as refused:
        await read_limited(request, 9, lambda _: None, seconds=0.01)
    assert refused.value.status == HTTPStatus.REQUEST_TIMEOUT
    with pytest.raises(SlowError, match=r"^the body did not arrive within 0\.02 seconds"):
        await receive(request, 9, Patience(body=0.02))
    with pytest.raises(SlowError, match=r"^more of the body did not arrive within 0\.03 seconds"):
        await receive(request, 9, Patience(piece=0.03))
