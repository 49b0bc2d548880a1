"""The supervisor with small processes in the place of the real worker: a death is noticed, a job is never stuck."""

import asyncio
import errno
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from denoiser.errors import ConflictError
from denoiser.jobs.store import Job, Store
from denoiser.jobs.supervisor import Supervisor

JUDGE = "import sys; from pathlib import Path; from denoiser.jobs.store import Store; s = Store(Path(sys.argv[1]))"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@asynccontextmanager
async def supervised(store: Store, program: str, switched: list[str]) -> AsyncIterator[Supervisor]:
    async def finish(job: str) -> None:
        if store.verdict(job):
            switched.append(job)
        store.finish(job, "base", "rival")

    folder = store.path.parent
    command = [sys.executable, "-c", program, str(folder)]
    supervisor = Supervisor(store, lambda job: [*command, job], lambda: None, finish)
    task = asyncio.create_task(supervisor.run())
    yield supervisor
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 (another process changes it)
            await asyncio.sleep(0.02)


def add(store: Store) -> Job:
    return store.add("file.txt", "some text", 1)


async def test_a_worker_that_dies_is_started_again_but_not_for_ever(store: Store) -> None:
    job = add(store)
    async with supervised(store, "import os; os.kill(os.getpid(), 9)", []):
        await until(lambda: store.get(job.id).state == "failed")
    ended = store.get(job.id)
    assert (ended.starts, ended.deaths) == (3, 3)
    assert "SIGKILL" in ended.message


async def test_a_promoted_model_is_handed_over(store: Store) -> None:
    job, switched = add(store), list[str]()
    async with supervised(store, f"{JUDGE}; s.judge(sys.argv[2], 'rival', True, [], 'better')", switched):
        await until(lambda: store.get(job.id).state == "done")
    assert switched == [job.id] == [store.active("base")]
    assert store.get(job.id).promoted


async def test_a_model_that_is_no_better_is_not(store: Store) -> None:
    job, switched = add(store), list[str]()
    async with supervised(store, f"{JUDGE}; s.judge(sys.argv[2], 'rival', False, [], 'not better')", switched):
        await until(lambda: store.get(job.id).state == "done")
    assert switched == []
    assert store.active("base") is None


async def test_a_cancelled_job_ends_its_worker_and_the_next_may_come(store: Store) -> None:
    job = add(store)
    async with supervised(store, "import time; time.sleep(600)", []) as supervisor:
        await until(lambda: store.get(job.id).starts == 1)  # its worker is there, or will be
        assert store.end(job.id, "cancelled", "cancelled")
        supervisor.stop(job.id)
        second = add(store)
        supervisor.wake()
        await until(lambda: store.get(second.id).starts == 1)
    assert store.get(job.id).state == "cancelled"
    assert store.get(second.id).state == "queued"


async def test_what_ran_waits_again_after_a_restart(store: Store) -> None:
    job = add(store)
    store.enter(job.id, "training", 10)
    async with supervised(store, f"{JUDGE}; s.judge(sys.argv[2], 'rival', False, [], 'done')", []):
        await until(lambda: store.get(job.id).state == "done")


async def test_after_a_full_disk_what_waits_is_tried_again(store: Store) -> None:
    program, attempts = f"{JUDGE}; s.judge(sys.argv[2], 'rival', False, [], 'done')", list[str]()

    def command_for(job: str) -> list[str]:
        attempts.append(job)
        if len(attempts) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return [sys.executable, "-c", program, str(store.path.parent), job]

    async def finish(job: str) -> None:
        store.finish(job, "base", "rival")

    job = add(store)
    work = asyncio.create_task(Supervisor(store, command_for, lambda: None, finish, pause=0.01).run())
    await until(lambda: store.get(job.id).state == "done")
    work.cancel()
    await asyncio.wait([work])
    assert attempts == [job.id] * 2


def test_only_one_job_at_a_time_and_none_ends_twice(store: Store) -> None:
    job = add(store)
    with pytest.raises(ConflictError, match=job.id):
        add(store)
    assert store.end(job.id, "cancelled", "cancelled")
    ended, events = store.get(job.id), store.events(job.id)
    assert not store.end(job.id, "failed", "too late")
    store.enter(job.id, "training", 10)
    store.advance(job.id, 5, 0.5)
    store.judge(job.id, "rival", True, [], "too late")
    assert not store.finish(job.id, "base", "rival")
    assert (store.get(job.id), store.events(job.id)) == (ended, events)
    assert store.active("base") is None


def test_a_choice_holds_for_its_model_path_only(store: Store) -> None:
    store.activate("model", "first")
    assert (store.active("first"), store.active("second")) == ("model", None)
