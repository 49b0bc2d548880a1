"""What a server needs to train: data folder, store, models, supervisor. Only one server at a time has a data folder."""

import asyncio
import fcntl
import shutil
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import structlog

from denoiser.errors import CheckpointError, OffError, StoreError, UnknownError
from denoiser.jobs.models import DEFAULT, Models
from denoiser.jobs.run import Order
from denoiser.jobs.store import Store
from denoiser.jobs.supervisor import Supervisor
from denoiser.model.denoise import Denoiser

LAST_WORKER_SECONDS = 30  # a worker ends when its server does; this is far more than that takes
Prepare = Callable[[Path], Awaitable[Callable[[], None]]]
"""Loads a model. What it returns has it used, and cannot fail: it is called once the choice is in the store."""

_log = structlog.get_logger()


class Training:
    """Jobs and models of one server."""

    def __init__(self, data: Path, default: Path, encoder: Path | None, steps: int, lock: TextIO | None = None) -> None:
        self._lock = lock
        for folder in ("models", "cache"):
            (data / folder).mkdir(parents=True, exist_ok=True)
        self.store = Store(data)
        self.models = Models(data / "models", default, self.store)
        self._order = Order(data=data, default=default, encoder=encoder, job="", steps=steps)
        self._cache = data / "cache"
        self.switching = asyncio.Lock()
        """Held while another model becomes the active one, and while a job is cancelled."""

    def supervisor(self, prepare: Prepare) -> Supervisor:
        """A supervisor by which a better model is loaded before its job is done, and used from then on."""

        async def finish(job: str) -> None:
            try:
                async with self.switching:
                    better = await asyncio.to_thread(self.store.verdict, job)
                    switch = await prepare(self.models.folder(job)) if better else None
                    active = await asyncio.to_thread(self.models.active)
                    promoted = await asyncio.to_thread(self.store.finish, job, self.models.base, active)
                    if switch and promoted:
                        switch()
            except CheckpointError as error:
                _log.error("the new model cannot be loaded", model=job, reason=str(error))
                await asyncio.to_thread(self.store.end, job, "failed", "its model cannot be loaded; the log says why")

        return Supervisor(self.store, self._command, self._clean, finish)

    def close(self) -> None:
        """Leave the data folder to another server."""
        if self._lock is not None:
            self._lock.close()

    def open_active(self, open_model: Callable[[Path], Denoiser]) -> Denoiser:
        """The active model; the default one, with a line in the log, if that is damaged or cannot be found out."""
        default = self.models.find(DEFAULT)
        try:
            active = self.models.active()
            if active == DEFAULT:
                return open_model(default)
            try:
                return open_model(self.models.find(active))
            except (CheckpointError, UnknownError) as error:
                _log.error(
                    "the active model cannot be loaded; serving the default one", model=active, reason=str(error)
                )
                self.store.activate(DEFAULT, self.models.base)
        except StoreError as error:
            _log.error("the choice of a model cannot be read or written; serving the default one", reason=str(error))
        return open_model(default)

    def _clean(self) -> None:
        """Without an unfinished job nothing in the cache is needed, and a half-written model is a killed worker's."""
        for path in [*self._cache.iterdir(), *self.models.unfinished()]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _command(self, job: str) -> list[str]:
        order = self._order.model_copy(update={"job": job})
        return [sys.executable, "-m", "denoiser.jobs.run", order.model_dump_json()]


def open_training(data: Path, default: Path, encoder: Path | None, steps: int) -> Training:
    """Training in a data folder. Raises OffError when it cannot be used or another server has it."""
    with ExitStack() as unless_open:
        try:
            data.mkdir(parents=True, exist_ok=True)
            lock = unless_open.enter_context((data / "server.lock").open("w"))
            _take_folder(data, lock)
            training = Training(data, default, encoder, steps, lock)
        except OSError as error:
            raise OffError(
                f"uploads are off: the data folder {data} cannot be written ({error.strerror}); set DENOISER_DATA"
            ) from error
        except StoreError as error:
            raise OffError(f"uploads are off: {error}") from error
        unless_open.pop_all()
    return training


def _take_folder(data: Path, lock: TextIO) -> None:
    if not _take(lock, 0):
        raise OffError(f"uploads are off: another server uses the data folder {data}; set DENOISER_DATA to another one")
    with (data / "worker.lock").open("w") as worker:
        if not _take(worker, LAST_WORKER_SECONDS):
            raise OffError(f"uploads are off: a worker of an earlier server still runs in {data}; end it first")


def _take(lock: TextIO, seconds: float) -> bool:
    """Take the lock within some time, and hold it until the file is closed; False when another process has it."""
    limit = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= limit:
                return False
            time.sleep(0.05)
        else:
            return True
