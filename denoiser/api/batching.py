"""Computing away from the event loop: whatever waits while one batch is computed becomes the next batch.

Nothing waits for a batch to fill, so a lone request is answered at once. A request that fails takes no other with it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

from denoiser.errors import BusyError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Computes items in batches of at most `most` rows (or one item), in one thread of its own."""

    def __init__(
        self, compute: Callable[[list[Item]], list[Result]], rows: Callable[[Item], int], most: int, name: str
    ) -> None:
        self._compute, self._rows, self._most = compute, rows, most
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._draining: asyncio.Task[None] | None = None

    async def run(self, item: Item) -> Result:
        """The item's result; raises what computing it alone raises."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        if self._draining is None or self._draining.done():
            self._draining = asyncio.create_task(self._drain())
        return await result

    def close(self) -> None:
        """Finish the running batch; what waits is never computed."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _drain(self) -> None:
        while self._waiting:
            await self._finish(self._take())

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        rows = 0
        while self._waiting and (not batch or rows + self._rows(self._waiting[0][0]) <= self._most):
            item, result = self._waiting.popleft()
            if not result.done():  # its client may have gone away
                batch.append((item, result))
                rows += self._rows(item)
        return batch

    async def _finish(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        if not batch:
            return
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self._compute, [item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1:
                for pair in batch:
                    await self._finish([pair])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for (_, waiting), result in zip(batch, results, strict=True):
            if not waiting.done():
                waiting.set_result(result)


class Admission:
    """How many requests, and how many bytes of bodies, are in the house at once."""

    def __init__(self, places: int, most_bytes: int) -> None:
        self._places, self._most_bytes = places, most_bytes
        self.taken, self._bytes = 0, 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue for the length of the block. Raises BusyError when none is free."""
        if self.taken >= self._places:
            raise BusyError("all places in the queue are taken; try again in a second")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    @contextmanager
    def memory(self) -> Iterator[Callable[[int], None]]:
        """Yields a function to call with the bytes just read, counted until the block ends; it raises BusyError."""
        held = 0

        def count(read: int) -> None:
            nonlocal held
            if self._bytes + read > self._most_bytes:
                raise BusyError("the bodies being read fill the memory set aside for them; try again in a second")
            held += read
            self._bytes += read

        try:
            yield count
        finally:
            self._bytes -= held
