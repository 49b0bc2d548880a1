"""uvicorn's HTTP/1.1 on h11, and what that lacks: a limit on the time that headers take.

h11 ignores offers to go on in HTTP/2, as Java's client makes them, and limits the size of headers; httptools neither.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 30


class Protocol(H11Protocol):
    """One connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connects."""
        super().connection_made(transport)
        self._expect_headers(True)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._expect_headers(False)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        super().data_received(data)
        self._expect_headers(self.conn.their_state is h11.IDLE)

    def _expect_headers(self, expected: bool) -> None:
        if expected and self._late is None:
            self._late = self.loop.call_later(HEADER_SECONDS, self.transport.close)
        elif not expected and self._late is not None:
            self._late.cancel()
            self._late = None
