"""uvicorn's HTTP/1.1 with its parser in C, and what that lacks: limits on headers, no fear of upgrades, and HTTP/1.0.

Java's HttpClient and `curl --http2` offer to go on in HTTP/2, which a server may ignore (RFC 9110, 7.8); the parser
takes the body of such a request for the other protocol and drops it. It still does where a client sends that request
before the one ahead of it is answered, which these do not.
"""

import asyncio
import re
from typing import Any, Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from chatglm2.contracts.base import to_json
from chatglm2.errors import BadRequest

MOST_HEADER_BYTES = 64 * 1024
HEADER_SECONDS = 30
_BLANK_LINE = re.compile(rb"\n\r?\n")
_NAME = b"\nupgrade"
_UPGRADE = re.compile(rb"(?<=\n)upgrade(?=:)", re.IGNORECASE)


class _Unchunked(RequestResponseCycle):
    """A reply over HTTP/1.0, which knows no chunks (RFC 9112, 6.1): where it ends, the connection does."""

    async def send(self, message: Any) -> None:
        self.chunked_encoding, self.expected_content_length = False, len(message.get("body", b""))
        await super().send(message)


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._place: Literal["between", "head", "body"] = "between"
        """Of a request what comes next."""
        self._held = b""
        """The end of what has come of a head, where the name `Upgrade` or the last line may have begun."""
        self._unrecognised = 0
        """Bytes since headers or a part of a body were complete: a request line and headers, or trailers."""
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connects."""
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        if self._place == "between" and not (data := data.lstrip(b"\r\n")):
            return
        if self._place != "body":
            data = self._without_upgrade(self._held + data)
        self._unrecognised += len(data)
        super().data_received(data)
        if self._unrecognised > MOST_HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response(f"the headers are longer than {MOST_HEADER_BYTES} bytes; send shorter ones")

    def on_message_begin(self) -> None:
        """A request line begins."""
        self._place = "head"
        self._expect_headers()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The body follows, or nothing."""
        self._place, self._unrecognised = "body", 0
        self._expect_nothing()
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            self.cycle.__class__ = _Unchunked

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._unrecognised = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._place, self._unrecognised = "between", 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets the contract's reply, too."""
        body = to_json(BadRequest(msg).body()).encode()
        head = ["HTTP/1.1 400 Bad Request", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        self.transport.write("\r\n".join([*head, "Connection: close", "", ""]).encode() + body)
        self.transport.close()

    def _expect_headers(self) -> None:
        self._expect_nothing()
        self._late = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _expect_nothing(self) -> None:
        if self._late is not None:
            self._late.cancel()

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            self._expect_headers()

    def _without_upgrade(self, data: bytes) -> bytes:
        """Headers whose `Upgrade`, if it is among them, has a name that says nothing, and what follows them."""
        blank = _BLANK_LINE.search(data)
        end = blank.start() if blank else data.rfind(b"\n", -len(_NAME))
        if not blank and (end < 0 or not (_NAME.startswith(data[end:].lower()) or data[end:] == b"\n\r")):
            end = len(data)
        headers, rest = _UPGRADE.sub(b"not-upgraded", data[:end]), data[end:]
        self._held = b"" if blank else rest
        return headers + rest if blank else headers
