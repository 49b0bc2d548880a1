"""Batches shared by requests, and the limits on what is in the house at once."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np
import pytest

from denoiser.api.batching import Admission, Batcher, TextBatcher, in_passing_thread
from denoiser.errors import BusyError
from denoiser.model.encoder import Embeddings

Item = TypeVar("Item")
Result = TypeVar("Result")


class Computing(Generic[Item, Result]):
    """Computes items one by one; the first batch waits for the test; one item is refused."""

    def __init__(self, one: Callable[[Item], Result], refused: Item) -> None:
        self._one, self._refused = one, refused
        self.batches: list[list[Item]] = []
        self.started, self.go_on = threading.Event(), threading.Event()

    def __call__(self, items: list[Item]) -> list[Result]:
        self.batches.append(items)
        self.started.set()
        assert self.go_on.wait(60)
        if self._refused in items:
            raise ValueError(self._refused)
        return [self._one(item) for item in items]


Doubling = Computing[int, int]


@pytest.fixture
def doubling() -> Doubling:
    return Computing(lambda number: 2 * number, refused=13)


async def finish(batcher: Batcher[int, int], doubling: Doubling, items: list[int]) -> list[int | BaseException]:
    tasks = [asyncio.create_task(batcher.run(item)) for item in items]
    await asyncio.to_thread(doubling.started.wait, 60)
    doubling.go_on.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_waits_during_one_batch_is_the_next(doubling: Doubling) -> None:
    batcher = Batcher(doubling, lambda _: 1, 3, ThreadPoolExecutor(1))
    first = asyncio.create_task(batcher.run(1))
    await asyncio.to_thread(doubling.started.wait, 60)
    assert await finish(batcher, doubling, [2, 3, 4, 5]) == [4, 6, 8, 10]
    assert await first == 2
    assert doubling.batches == [[1], [2, 3, 4], [5]]


async def test_one_that_fails_takes_no_other_with_it(doubling: Doubling) -> None:
    answers = await finish(Batcher(doubling, lambda _: 1, 9, ThreadPoolExecutor(1)), doubling, [1, 13, 3])
    assert [answers[0], answers[2]] == [2, 6]
    assert isinstance(answers[1], ValueError)


async def test_an_item_larger_than_a_batch_goes_alone(doubling: Doubling) -> None:
    batcher = Batcher(doubling, lambda item: item, 3, ThreadPoolExecutor(1))
    assert await finish(batcher, doubling, [9, 1, 2]) == [18, 2, 4]
    assert [9] in doubling.batches


async def test_who_goes_away_is_not_computed(doubling: Doubling) -> None:
    batcher = Batcher(doubling, lambda _: 1, 9, ThreadPoolExecutor(1))
    first, second = (asyncio.create_task(batcher.run(item)) for item in (1, 2))
    await asyncio.to_thread(doubling.started.wait, 60)
    third = asyncio.create_task(batcher.run(3))
    await asyncio.sleep(0)
    third.cancel()
    doubling.go_on.set()
    assert [await first, await second] == [2, 4]
    assert all(3 not in batch for batch in doubling.batches)


async def test_a_passing_thread_ends_with_its_work() -> None:
    thread = await in_passing_thread(threading.current_thread)
    await asyncio.to_thread(thread.join, 60)
    assert thread is not threading.main_thread()
    assert not thread.is_alive()


def test_places_and_memory_are_given_back() -> None:
    admission = Admission(places=1, most_bytes=10)
    for _ in range(2):
        with admission.place(), pytest.raises(BusyError), admission.place():
            pass
        with admission.memory() as count, admission.memory() as other:
            count(6)
            with pytest.raises(BusyError):
                other(5)
            other(4)


def _length(text: str) -> Embeddings:
    return np.array([len(text)], dtype=np.float32)


class Encoding:
    """Requests that wait in turn while a first one, the text "first", is being encoded."""

    def __init__(self, most: int) -> None:
        self.lengths = Computing(_length, refused="bad")
        self.batcher: TextBatcher[str] = TextBatcher(self.lengths, most, ThreadPoolExecutor(1))

    async def run(self, *requests: list[str], leaving: int | None = None) -> list[Any]:
        """The rows of each request, or its error; `leaving` goes away before anything is encoded."""
        first = asyncio.create_task(self.batcher.run(["first"]))
        await asyncio.to_thread(self.lengths.started.wait, 60)
        tasks = []
        for request in requests:
            tasks.append(asyncio.create_task(self.batcher.run(request)))
            await asyncio.sleep(0)
        if leaving is not None:
            tasks[leaving].cancel()
            await asyncio.sleep(0)
        self.lengths.go_on.set()
        await first
        return [
            answer.tolist() if isinstance(answer, np.ndarray) else answer
            for answer in await asyncio.gather(*tasks, return_exceptions=True)
        ]

    @property
    def batches(self) -> list[list[str]]:
        return self.lengths.batches[1:]


async def test_texts_of_like_length_share_a_batch_and_rows_stay_in_order() -> None:
    encoding = Encoding(most=2)
    assert await encoding.run(["aa", "aaaaaaaa"], ["bbbbbbb", "b"]) == [[[2], [8]], [[7], [1]]]
    assert encoding.batches == [["aaaaaaaa", "bbbbbbb"], ["aa", "b"]]


async def test_a_few_texts_share_a_batch_and_more_only_of_like_length() -> None:
    encoding = Encoding(most=9)
    await encoding.run([20 * "a"], [18 * "b"], [3 * "c"], [2 * "d"], ["e"], [22 * "f"])
    assert [[len(text) for text in batch] for batch in encoding.batches] == [[20, 18, 22, 3], [2, 1]]
    encoding = Encoding(most=9)
    await encoding.run([n * "a" for n in (20, 19, 18, 17, 21, 22, 23, 24)])
    assert [[len(text) for text in batch] for batch in encoding.batches] == [[24, 23, 22, 21], [20, 19, 18, 17]]


async def test_a_small_request_passes_a_large_one() -> None:
    encoding = Encoding(most=1)
    await encoding.run(["aa", "a"], ["b"])
    assert encoding.batches == [["b"], ["aa"], ["a"]]


async def test_a_large_request_is_not_passed_for_ever() -> None:
    encoding = Encoding(most=1)
    large = asyncio.create_task(encoding.batcher.run(["aaa", "aa", "a"]))
    await asyncio.sleep(0)
    encoding.lengths.go_on.set()
    for _ in range(20):
        await encoding.batcher.run(["b"])
    assert large.done()
    order = [text for batch in encoding.lengths.batches for text in batch]
    assert "b" in order[: order.index("a")]


async def test_a_text_that_fails_takes_its_own_request_only() -> None:
    answers = await Encoding(most=9).run(["aa", "bad"], ["b"])
    assert isinstance(answers[0], ValueError)
    assert answers[1] == [[1]]


async def test_the_texts_of_who_goes_away_are_not_encoded() -> None:
    encoding = Encoding(most=9)
    answers = await encoding.run(["aa", "a"], ["b"], leaving=0)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1] == [[1]]
    assert encoding.batches == [["b"]]
