"""Runs the queued job in a worker process, starts it again when the worker dies, and hands over what it has judged.

The worker holds a pipe from this process and ends when it closes, so that no worker outlives its server.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable

import structlog

from denoiser.errors import StoreError
from denoiser.jobs.store import ENDS, Job, Store

PAUSE_SECONDS = 60  # after a failure that is no worker's, such as a full disk
_log = structlog.get_logger()


def _signal_name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


class Supervisor:
    """The one who starts and stops workers, and has what they left cleaned away when no job is unfinished."""

    def __init__(
        self,
        store: Store,
        command: Callable[[str], list[str]],
        clean: Callable[[], None],
        finish: Callable[[str], Awaitable[None]],
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self._store, self._command, self._clean, self._finish = store, command, clean, finish
        self._pause = pause
        self._wake = asyncio.Event()
        self._job: str | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.trouble = ""
        """Why the queued job waits, where it does not only wait its turn."""

    def wake(self) -> None:
        """A job waits."""
        self._wake.set()

    def stop(self, job: str) -> None:
        """End the worker of a job, if that is the one at work."""
        if job == self._job and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def run(self) -> None:
        """Work until cancelled; then the worker is ended and its job waits for the next start.

        After a failure, such as a full disk, what waits is tried again a while later.
        """
        while True:
            try:
                await self._run()
            except Exception as error:
                known = isinstance(error, StoreError)
                self.trouble = str(error) if known else "training has stopped and is tried again; the log says why"
                _log.exception("training has stopped and is tried again", seconds=self._pause)
                await asyncio.sleep(self._pause)

    async def _run(self) -> None:
        await asyncio.to_thread(self._store.requeue)
        try:
            while True:
                self._wake.clear()
                job = await asyncio.to_thread(self._store.unfinished)
                if job is None:
                    await asyncio.to_thread(self._clean)
                    self.trouble = ""
                    await self._wake.wait()
                else:
                    await self._work(job)
        finally:
            if self._job is not None and self._process is not None:
                self.stop(self._job)
                await self._process.wait()

    async def _work(self, job: Job) -> None:
        await asyncio.to_thread(self._store.started, job.id)
        half = str(max(1, (os.cpu_count() or 1) // 2))
        threads = {"OMP_NUM_THREADS": half, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
        self._process = await asyncio.create_subprocess_exec(
            *self._command(job.id), stdin=asyncio.subprocess.PIPE, env=os.environ | threads, start_new_session=True
        )
        self._job, self.trouble = job.id, ""
        if (await asyncio.to_thread(self._store.get, job.id)).state in ENDS:  # cancelled while its worker started
            self.stop(job.id)
        code = await self._process.wait()
        self._job = None
        if await asyncio.to_thread(self._store.verdict, job.id) is not None:
            await self._finish(job.id)
        ended = await asyncio.to_thread(self._store.get, job.id)
        _log.info("training job", job=job.id, state=ended.state, exit=code)
        if ended.state not in ENDS:
            await asyncio.to_thread(self._store.died, job.id, _signal_name(code))
