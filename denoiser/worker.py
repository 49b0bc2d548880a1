"""One thread for the heavy computing, and a bounded queue in front of it, so that the event loop stays free."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from denoiser.errors import BusyError

Result = TypeVar("Result")


class Worker:
    """Runs jobs one after the other; never holds more than `queue_size` of them, the running one included."""

    def __init__(self, queue_size: int) -> None:
        self._places = asyncio.Semaphore(queue_size)
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="denoiser")

    async def run(self, job: Callable[[], Result]) -> Result:
        """The job's result. Raises BusyError when the queue is full."""
        if self._places.locked():
            raise BusyError("all places in the queue are taken; try again in a second")
        async with self._places:
            running = asyncio.get_running_loop().run_in_executor(self._threads, job)
            return await asyncio.shield(running)

    def close(self) -> None:
        """Finish the running job and drop the waiting ones."""
        self._threads.shutdown(wait=True, cancel_futures=True)
