"""A Unix socket between the worker that answers requests and whoever started it, for an orderly shutdown.

DJL Serving drops requests in flight when it is told to stop. So its starter first connects here: from then on the worker
refuses new requests, and the connection closes when the last one in flight has ended.
"""

import asyncio
from pathlib import Path

from chatglm2.service import ChatService


async def serve_control(service: ChatService, path: Path | None) -> None:
    """Listen on `path` for as long as the event loop runs; with no path, do nothing."""
    if path is None:
        return

    async def drain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await service.drain()
        writer.close()

    path.unlink(missing_ok=True)  # left by a worker that was killed
    server = await asyncio.start_unix_server(drain, path)
    asyncio.get_running_loop()._chat_control = server  # type: ignore[attr-defined]


async def drain_worker(path: Path, seconds: float) -> None:
    """Ask the worker behind `path` to finish, and wait until it has, at most that long. A dead worker has nothing to finish."""
    try:
        async with asyncio.timeout(seconds):
            reader, _ = await asyncio.open_unix_connection(path)
            await reader.read()
    except (OSError, TimeoutError):
        return
