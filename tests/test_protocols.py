"""Time that a client may take for a request's headers, in both services; their defaults are too long to wait for."""

import asyncio
from collections.abc import AsyncIterator
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

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ARG001
    """Answers when the body is there, and not at once."""
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(2 * SECONDS)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest_asyncio.fixture(params=[chatglm2.protocol, denoiser.api.protocol], ids=["chat", "denoiser"])
async def connection(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connection]:
    """A connection to a server that is in less of a hurry to end idle ones than to see headers."""
    module: ModuleType = request.param
    monkeypatch.setattr(module, "HEADER_SECONDS", SECONDS)
    config = uvicorn.Config(app, log_config=None, timeout_keep_alive=60)
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: module.Protocol(config, state, {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    yield reader, writer
    writer.close()
    server.close()


@pytest.mark.parametrize("beginning", [b"", b"P", WHOLE[:-2]], ids=["nothing", "one letter", "all but the end"])
async def test_a_connection_without_headers_ends(connection: Connection, beginning: bytes) -> None:
    reader, writer = connection
    writer.write(beginning)
    assert await asyncio.wait_for(reader.read(), 20) == b""


async def test_the_next_request_of_a_connection_has_no_more_time(connection: Connection) -> None:
    reader, writer = connection
    writer.write(WHOLE + b"{}")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
    writer.write(WHOLE[:-2])
    assert await asyncio.wait_for(reader.read(), 20) == b""


async def test_bodies_answers_and_pauses_may_take_longer(connection: Connection) -> None:
    reader, writer = connection
    for _ in range(2):
        writer.write(WHOLE)
        await asyncio.sleep(2 * SECONDS)
        writer.write(b"{}")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
        await asyncio.sleep(2 * SECONDS)


async def test_a_next_request_that_stays_unfinished_does_not_end_the_answer_before_it(connection: Connection) -> None:
    reader, writer = connection
    writer.write(WHOLE + b"{}" + WHOLE[:-2])
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
