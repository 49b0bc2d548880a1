"""Streams of a request put together: up to a deadline, and several as one. Closing one closes what it is made of."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from chatglm2.contracts.base import Change
from chatglm2.engines.base import Step
from chatglm2.errors import DeadlinePassed, Unavailable


class Deadlines:
    """How long things may take: each up to its own deadline, and all of them until `end` is called. `way_out` is what
    a client can do so that they take less."""

    def __init__(self, way_out: str) -> None:
        self.way_out = way_out
        self.waits: set[asyncio.Timeout] = set()
        self.ended = False

    def end(self) -> None:
        """End what is under way, and what still begins."""
        self.ended = True
        for wait in self.waits:
            if not wait.expired():
                wait.reschedule(0)

    def within(self, deadline: float) -> "_Wait":
        """For a block that ends at `deadline` on the event loop's clock. Raises DeadlinePassed, and Unavailable after
        `end`."""
        return _Wait(self, deadline)

    async def until(self, deadline: float, steps: AsyncGenerator[list[Step], None]) -> AsyncGenerator[list[Step], None]:
        """`steps` up to `deadline`. Raises as `within`."""
        async with contextlib.aclosing(steps):
            while True:
                try:
                    async with self.within(deadline):
                        made = await anext(steps)
                except StopAsyncIteration:
                    return
                yield made


class _Wait:
    """A class, because a token's way through a generator of `contextlib` would take several times as long."""

    def __init__(self, deadlines: Deadlines, deadline: float) -> None:
        self._deadlines = deadlines
        self._timeout = asyncio.timeout_at(0 if deadlines.ended else deadline)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._deadlines.waits.add(self._timeout)

    async def __aexit__(self, *raised: Any) -> None:
        self._deadlines.waits.discard(self._timeout)
        try:
            await self._timeout.__aexit__(*raised)
        except TimeoutError:
            if self._deadlines.ended:
                raise Unavailable(
                    "the service shut down before the answer ended; send the request to another instance"
                ) from None
            raise DeadlinePassed(f"the request took longer than a request may; {self._deadlines.way_out}") from None


async def merged(streams: list[AsyncGenerator[list[Change], None]]) -> AsyncGenerator[list[Change], None]:
    """The changes of several answers in the order in which they come."""
    waiting = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream = waiting.pop(task)
                with contextlib.suppress(StopAsyncIteration):
                    changes = task.result()
                    waiting[asyncio.ensure_future(anext(stream))] = stream
                    yield changes
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()
