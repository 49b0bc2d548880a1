"""Batches shared by requests, and the limits on what is in the house at once."""

import asyncio
import threading

import pytest

from denoiser.api.batching import Admission, Batcher
from denoiser.errors import BusyError


class Doubling:
    """Doubles numbers; the first batch waits for the test; 13 is refused."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started, self.go_on = threading.Event(), threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.started.set()
        assert self.go_on.wait(60)
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]


@pytest.fixture
def doubling() -> Doubling:
    return Doubling()


async def finish(batcher: Batcher[int, int], doubling: Doubling, items: list[int]) -> list[int | BaseException]:
    tasks = [asyncio.create_task(batcher.run(item)) for item in items]
    await asyncio.to_thread(doubling.started.wait, 60)
    doubling.go_on.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_waits_during_one_batch_is_the_next(doubling: Doubling) -> None:
    batcher = Batcher(doubling, lambda _: 1, 3, "test")
    first = asyncio.create_task(batcher.run(1))
    await asyncio.to_thread(doubling.started.wait, 60)
    assert await finish(batcher, doubling, [2, 3, 4, 5]) == [4, 6, 8, 10]
    assert await first == 2
    assert doubling.batches == [[1], [2, 3, 4], [5]]


async def test_one_that_fails_takes_no_other_with_it(doubling: Doubling) -> None:
    answers = await finish(Batcher(doubling, lambda _: 1, 9, "test"), doubling, [1, 13, 3])
    assert [answers[0], answers[2]] == [2, 6]
    assert isinstance(answers[1], ValueError)


async def test_an_item_larger_than_a_batch_goes_alone(doubling: Doubling) -> None:
    assert await finish(Batcher(doubling, lambda item: item, 3, "test"), doubling, [9, 1, 2]) == [18, 2, 4]
    assert [9] in doubling.batches


async def test_who_goes_away_is_not_computed(doubling: Doubling) -> None:
    batcher = Batcher(doubling, lambda _: 1, 9, "test")
    first, second = (asyncio.create_task(batcher.run(item)) for item in (1, 2))
    await asyncio.to_thread(doubling.started.wait, 60)
    third = asyncio.create_task(batcher.run(3))
    await asyncio.sleep(0)
    third.cancel()
    doubling.go_on.set()
    assert [await first, await second] == [2, 4]
    assert all(3 not in batch for batch in doubling.batches)


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
