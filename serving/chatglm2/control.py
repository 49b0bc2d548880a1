"""A Unix socket between the worker that answers requests and whoever started DJL Serving around it.

The starter holds a connection open: that it breaks tells at once that the worker is gone, which DJL's own `/ping` does
not, and during loading DJL does not notice at all. And DJL drops requests in flight when it is stopped, so the starter
first asks the worker to finish them.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from chatglm2.service import ChatService

READY = b"ready\n"
DRAIN = b"drain\n"


async def serve_control(
    service: "asyncio.Future[ChatService]", path: Path, drain_seconds: float, orphaned: Callable[[], None]
) -> asyncio.Server:
    """Listen on `path`. Says `ready` once there is a service; then a line `drain` makes it refuse new requests, and is
    answered when those in flight have ended, after `drain_seconds` at the latest. A connection that breaks without that
    line means that the starter is gone: calls `orphaned`.
    """

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loaded = await asyncio.shield(service)
        writer.write(READY)
        if await _line(reader) == DRAIN:
            await loaded.drain(drain_seconds)
            writer.write(DRAIN)
        else:
            orphaned()
        writer.close()

    return await asyncio.start_unix_server(attend, path)


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line, or nothing where the connection broke."""
    try:
        return await reader.readline()
    except ConnectionError:
        return b""


class Worker:
    """The worker as its starter sees it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.was_ready = False
        """Whether it has ever been able to answer."""

    async def gone(self) -> None:
        """Returns when a worker that had started is no more."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path)
                break
            except OSError:
                await asyncio.sleep(0.1)
        self.was_ready = await reader.readline() == READY
        await reader.read()
        writer.close()

    async def drain(self, seconds: float) -> bool:
        """Ask it to finish; whether it has within that time. A worker that is not there has nothing to finish."""
        if not self.was_ready:
            return True
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_unix_connection(self._path)
                writer.write(DRAIN)
                await reader.read()
                writer.close()
        except TimeoutError:
            return False
        except OSError:
            pass
        return True
