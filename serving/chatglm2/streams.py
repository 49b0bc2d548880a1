"""Streams of a request put together: up to a deadline, and several as one. Closing one closes what it is made of."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from chatglm2.contracts.base import Change
from chatglm2.engines.base import Step
from chatglm2.errors import ChatError, DeadlinePassed, Unavailable


class Deadlines:
    """How long answers may take: each up to its own deadline, and all of them until `end` is called."""

    def __init__(self) -> None:
        self._waits: set[asyncio.Timeout] = set()
        self._ended = False

    def end(self) -> None:
        """End the answers under way, and those that still begin."""
        self._ended = True
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(0)

    async def until(self, deadline: float, steps: AsyncGenerator[list[Step], None]) -> AsyncGenerator[list[Step], None]:
        """`steps` up to `deadline` on the event loop's clock. Raises DeadlinePassed, and Unavailable after `end`."""
        async with contextlib.aclosing(steps):
            while True:
                wait = asyncio.timeout_at(0 if self._ended else deadline)
                try:
                    async with wait:
                        self._waits.add(wait)
                        made = await anext(steps)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise self._too_late() from None
                finally:
                    self._waits.discard(wait)
                yield made

    def _too_late(self) -> ChatError:
        if self._ended:
            return Unavailable("the service shut down before the answer ended; send the request to another instance")
        return DeadlinePassed("the request took longer than a request may; ask for fewer tokens")


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
