"""What the server does with HTTP itself: offers of other protocols, headers without end, requests that outlast it."""

import contextlib
import http.client
import json
import socket
import sys
import time
from collections.abc import Iterator

import pytest

from bench.ports import free_port
from tests.servers import Server, running

BODY = json.dumps({"texts": ["Is anybody there?"]}).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("http"), free_port()
    command = [sys.executable, "-m", "denoiser", "serve", "--port", str(port)]
    with running(command, folder / "log", port, {"DENOISER_DATA": str(folder / "data")}) as server:
        yield server


def head(length: int, *more: str) -> bytes:
    lines = ["POST /denoise/text HTTP/1.1", "Host: x", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()


def read(connection: socket.socket) -> tuple[int, dict[str, object]]:
    reply = http.client.HTTPResponse(connection)
    reply.begin()
    return reply.status, json.loads(reply.read())


def test_an_offer_to_go_on_in_another_protocol_is_ignored(server: Server) -> None:
    """As Java's HttpClient and `curl --http2` make it."""
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(head(len(BODY), "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c") + BODY)
            status, reply = read(connection)
            assert (status, reply["shape"]) == (200, [1, 384])


def test_headers_without_end_are_refused(server: Server) -> None:
    with server.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nX-A: " + b"x" * 300_000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    assert server.healthy()


def test_a_body_that_has_not_come_when_the_server_stops_is_503(server: Server) -> None:
    """The last test of this server."""
    with server.connect() as connection:
        connection.sendall(head(1000) + b"{")
        time.sleep(1)
        server.process.terminate()
        status, reply = read(connection)
    assert status == 503
    assert "shut down" in str(reply["detail"])
    assert server.process.wait(20) == 0
