"""Streams of a request put together: up to a deadline, and several as one. Closing one closes what it is made of."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from chatglm2.contracts.base import Change
from chatglm2.engines.base import Step
from chatglm2.errors import DeadlinePassed


async def until(deadline: float, steps: AsyncGenerator[list[Step], None]) -> AsyncGenerator[list[Step], None]:
    """`steps` up to `deadline` on the event loop's clock. Raises DeadlinePassed."""
    async with contextlib.aclosing(steps):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    made = await anext(steps)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise DeadlinePassed("the request took longer than a request may; ask for fewer tokens") from None
            yield made


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
