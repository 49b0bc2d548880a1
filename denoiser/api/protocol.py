"""uvicorn's HTTP/1.1 on h11, and what that lacks: an end to connections that stand still.

h11 ignores offers to go on in HTTP/2, as Java's client makes them, and limits the size of headers; httptools neither.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 30
UNREAD_SECONDS = 60
"""A reply of which nothing is read for so long is dropped; until then it is kept in memory."""


class Protocol(H11Protocol):
    """One connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._no_headers: asyncio.TimerHandle | None = None
        self._no_reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connects."""
        super().connection_made(transport)
        self._expect_headers(True)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._expect_headers(False)
        self._expect_no_reading()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        super().data_received(data)
        self._expect_headers(self.conn.their_state is h11.IDLE)

    def pause_writing(self) -> None:
        """The client reads more slowly than the reply is made."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """Most of what was written has been read."""
        self._expect_no_reading()
        super().resume_writing()

    def _expect_headers(self, expected: bool) -> None:
        if expected and self._no_headers is None:
            self._no_headers = self.loop.call_later(HEADER_SECONDS, self.transport.close)
        elif not expected and self._no_headers is not None:
            self._no_headers.cancel()
            self._no_headers = None

    def _expect_reading(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._no_reading = self.loop.call_later(UNREAD_SECONDS, self._give_up, unread)

    def _expect_no_reading(self) -> None:
        if self._no_reading is not None:
            self._no_reading.cancel()

    def _give_up(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() < unread:
            self._expect_reading()
        else:
            self.transport.abort()
