"""Connections that stand still, in both services; what they may take by default is too long to wait for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from uvicorn.server import ServerState

import chatglm2.protocol
import denoiser.api.protocol

SECONDS = 0.3
WHOLE = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"

LARGE = 30_000_000  # bytes, more than the system keeps for a connection

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers when the body is there, and not at once."""
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(2 * SECONDS)
    body = bytes(LARGE) if scope["path"] == "/large" else b"{}"
    length = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def connected(module: ModuleType) -> AsyncIterator[Connection]:
    """A connection to a server that is in no hurry to end idle ones."""
    config = uvicorn.Config(app, log_config=None, timeout_keep_alive=60)
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: module.Protocol(config, state, {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    yield reader, writer
    writer.close()
    server.close()


@pytest_asyncio.fixture(params=[chatglm2.protocol, denoiser.api.protocol], ids=["chat", "denoiser"])
async def connection(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connection]:
    """A connection to a server that is in a hurry to see headers."""
    monkeypatch.setattr(request.param, "HEADER_SECONDS", SECONDS)
    async with connected(request.param) as made:
        yield made


async def answered(reader: asyncio.StreamReader) -> bool:
    """Whether the next thing to come is a good reply."""
    return (await reader.readuntil(b"{}")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("beginning", [b"", b"P", WHOLE[:-2]], ids=["nothing", "one letter", "all but the end"])
async def test_a_connection_without_headers_ends(connection: Connection, beginning: bytes) -> None:
    reader, writer = connection
    writer.write(beginning)
    assert await asyncio.wait_for(reader.read(), 20) == b""


@pytest.mark.parametrize("beginning", [WHOLE[:-2], b"\r\nPOST"], ids=["all but the end", "a line end before it"])
async def test_the_next_request_of_a_connection_has_no_more_time(connection: Connection, beginning: bytes) -> None:
    reader, writer = connection
    writer.write(WHOLE + b"{}")
    assert await answered(reader)
    writer.write(beginning)
    assert b" 200 " not in await asyncio.wait_for(reader.read(), 20)


async def test_bodies_answers_and_pauses_may_take_longer(connection: Connection) -> None:
    reader, writer = connection
    for _ in range(2):
        writer.write(WHOLE)
        await asyncio.sleep(2 * SECONDS)
        writer.write(b"{}")
        assert await answered(reader)
        await asyncio.sleep(2 * SECONDS)


async def test_a_next_request_that_stays_unfinished_does_not_end_the_answer_before_it(connection: Connection) -> None:
    reader, writer = connection
    writer.write(WHOLE + b"{}" + WHOLE[:-2])
    assert await answered(reader)


@pytest.mark.parametrize("reads", [False, True], ids=["not read", "read slowly"])
async def test_a_reply_that_nobody_reads_is_dropped(reads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoiser.api.protocol, "UNREAD_SECONDS", 1)
    async with connected(denoiser.api.protocol) as (reader, writer):
        writer.write(WHOLE.replace(b" / ", b" /large ") + b"{}")
        await asyncio.sleep(0 if reads else 4)
        got = 0
        with contextlib.suppress(ConnectionError):
            while got < LARGE and (piece := await reader.read(LARGE)):
                got += len(piece)
                await asyncio.sleep(0.04 if got < LARGE / 2 else 0)  # which takes longer than a second
    assert (got >= LARGE) == reads
