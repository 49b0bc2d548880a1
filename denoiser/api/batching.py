"""Computing away from the event loop: whatever waits while one batch is computed becomes the next batch.

Nothing waits for a batch to fill, so a lone request is answered at once. A request that fails takes no other with it.
"""

import asyncio
import heapq
from abc import ABC, abstractmethod
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import numpy as np

from denoiser.errors import BusyError
from denoiser.model.encoder import Embeddings

Item = TypeVar("Item")
Result = TypeVar("Result")
Text = TypeVar("Text", bound=Sized)
"""A text in a form whose length says how long it takes."""

_LOOKED_AT = 2048  # texts among which those of like length are looked for
_FEW, _LIKE = 4, 0.15  # a few texts share a batch whatever their lengths; more only within 15% of the first


async def in_passing_thread(work: Callable[[], Result]) -> Result:
    """What `work` returns, computed in a thread that then ends.

    A thread that has computed keeps its OpenMP workers alive. With more workers than cores, libgomp puts all of them
    to sleep between products, which costs the thread that computes batches 6% of its speed.
    """
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
    finally:
        thread.shutdown(wait=False)


class _Turns(ABC, Generic[Item, Result]):
    """Batch after batch in `thread`, for as long as something waits."""

    def __init__(self, compute: Callable[[list[Item]], Iterable[Result]], thread: Executor) -> None:
        self._compute, self._thread = compute, thread
        self._draining: asyncio.Task[None] | None = None

    @abstractmethod
    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """The next batch; empty when nothing waits."""

    def _wake(self) -> None:
        if self._draining is None or self._draining.done():
            self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        while batch := self._take():
            await self._finish(batch)

    async def _finish(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
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
            if not waiting.done():  # its client may have gone away
                waiting.set_result(result)


class Batcher(_Turns[Item, Result]):
    """Computes items in their order, in batches of at most `most` rows (or one item)."""

    def __init__(
        self,
        compute: Callable[[list[Item]], Iterable[Result]],
        rows: Callable[[Item], int],
        most: int,
        thread: Executor,
    ) -> None:
        super().__init__(compute, thread)
        self._rows, self._most = rows, most
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()

    async def run(self, item: Item) -> Result:
        """The item's result; raises what computing it alone raises."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, result))
        self._wake()
        return await result

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        rows = 0
        while self._waiting and (not batch or rows + self._rows(self._waiting[0][0]) <= self._most):
            item, result = self._waiting.popleft()
            if not result.done():
                batch.append((item, result))
                rows += self._rows(item)
        return batch


@dataclass
class _Texts(Generic[Text]):
    """What is still to do of one request, the longest text first, and how many texts may be taken before it is due."""

    due: int
    waiting: dict[asyncio.Future[Embeddings], Text]


class TextBatcher(_Turns[Text, Embeddings]):
    """Encodes the texts of all requests, at most `most` together: one that is due, and those nearest to it in length.

    Texts of like length need little padding, but every batch takes some time of its own, as much as about 80 tokens. A
    request is due when four times its own texts have been encoded since it came: a small one passes a large one, and
    none is passed for ever.
    """

    def __init__(self, encode: Callable[[list[Text]], Iterable[Embeddings]], most: int, thread: Executor) -> None:
        super().__init__(encode, thread)
        self._most = most
        self._requests: list[_Texts[Text]] = []
        self._taken = 0

    async def run(self, texts: Sequence[Text]) -> Embeddings:
        """Embeddings [n, width] of n >= 1 texts; raises what encoding one of them alone raises."""
        loop = asyncio.get_running_loop()
        results: list[asyncio.Future[Embeddings]] = [loop.create_future() for _ in texts]
        longest_first = sorted(zip(results, texts, strict=True), key=lambda pair: -len(pair[1]))
        request = _Texts(self._taken + 4 * len(texts), dict(longest_first))
        insort(self._requests, request, key=lambda request: request.due)
        self._wake()
        try:
            return np.stack(await asyncio.gather(*results))
        finally:
            request.waiting.clear()

    def _take(self) -> list[tuple[Text, asyncio.Future[Embeddings]]]:
        self._requests = [request for request in self._requests if request.waiting]
        pairs = ((request, result) for request in self._requests for result in request.waiting)
        candidates = [(request.waiting[result], result, request) for request, result in islice(pairs, _LOOKED_AT)]
        if not candidates:
            return []
        length = len(candidates[0][0])
        nearest = heapq.nsmallest(self._most, candidates, key=lambda one: abs(len(one[0]) - length))
        alike = [one for i, one in enumerate(nearest) if i < _FEW or abs(len(one[0]) - length) <= _LIKE * length]
        for _, result, request in alike:
            del request.waiting[result]
        self._taken += len(alike)
        return [(text, result) for text, result, _ in alike]


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
