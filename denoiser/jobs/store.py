"""Jobs, their events and the active model in one SQLite file; every change is one transaction.

A job is queued, then goes through its phases in a worker process, and ends once: done, failed or cancelled. It is the
server that ends it as done, by its worker's verdict.
"""

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from denoiser.errors import ConflictError, StoreError, UnknownError

Phase = Literal["encoding", "training", "evaluating", "promoting"]
End = Literal["done", "failed", "cancelled"]
State = Literal["queued"] | Phase | End
ENDS: tuple[End, ...] = ("done", "failed", "cancelled")
DEATHS = 3  # of a job's worker while the server lives
STARTS = 100  # of a job, restarts of the server included
_ENDED = "('done', 'failed', 'cancelled')"

_TABLES = f"""
CREATE TABLE IF NOT EXISTS job (
    id TEXT PRIMARY KEY, filename TEXT NOT NULL, word_count INTEGER NOT NULL, sentences INTEGER NOT NULL,
    state TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0, loss REAL,
    figures TEXT NOT NULL DEFAULT '[]', promoted INTEGER NOT NULL DEFAULT 0, message TEXT NOT NULL DEFAULT '',
    starts INTEGER NOT NULL DEFAULT 0, deaths INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL, ended REAL);
CREATE UNIQUE INDEX IF NOT EXISTS one_at_a_time ON job ((1)) WHERE state NOT IN {_ENDED};
CREATE TABLE IF NOT EXISTS upload (job TEXT PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS comparison (
    job TEXT PRIMARY KEY, rival TEXT NOT NULL, better INTEGER NOT NULL, figures TEXT NOT NULL, message TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS event (
    id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS event_of_job ON event (job, id);
CREATE TABLE IF NOT EXISTS active (only INTEGER PRIMARY KEY CHECK (only = 1), model TEXT NOT NULL, base TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Job:
    """One row; `done` of `total` steps (or sentences) of the present phase, times in seconds since 1970."""

    id: str
    filename: str
    word_count: int
    sentences: int
    state: State
    done: int
    total: int
    loss: float | None
    figures: list[dict[str, Any]]
    promoted: bool
    message: str
    starts: int
    deaths: int
    created: float
    ended: float | None


@dataclass(frozen=True)
class Event:
    """One change of a job; ids rise."""

    id: int
    kind: Literal["state", "progress"]
    data: dict[str, Any]


def _job(row: sqlite3.Row) -> Job:
    fields = {**row, "figures": json.loads(row["figures"]), "promoted": bool(row["promoted"])}
    return Job(**fields)


class Store:
    """The file `state.sqlite` of a data folder; safe to use from any thread and process. All raise StoreError."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.sqlite"
        with self._connect() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_TABLES)

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as db:
                db.row_factory = sqlite3.Row
                with db:
                    yield db
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{self.path.name} in the data folder {self.path.parent} cannot be used ({error}); make room there, "
                "end what else uses it, move the file away if it is damaged, or set DENOISER_DATA to another folder"
            ) from error

    def add(self, filename: str, text: str, sentences: int) -> Job:
        """A new queued job with its text. Raises ConflictError while another one has not ended."""
        job = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        with self._connect() as db:
            try:
                db.execute(
                    "INSERT INTO job (id, filename, word_count, sentences, state, created) VALUES (?,?,?,?,'queued',?)",
                    (job, filename, len(text.split()), sentences, time.time()),
                )
            except sqlite3.IntegrityError as error:
                raise ConflictError(busy(self.unfinished())) from error
            db.execute("INSERT INTO upload VALUES (?, ?)", (job, text))
            _tell(db, job, "state", {"state": "queued"})
        return self.get(job)

    def get(self, job: str) -> Job:
        """A job. Raises UnknownError."""
        with self._connect() as db:
            row = db.execute("SELECT * FROM job WHERE id = ?", (job,)).fetchone()
        if row is None:
            raise UnknownError(f"there is no job {job!r:.60}; GET /jobs lists them")
        return _job(row)

    def all(self) -> list[Job]:
        """Every job, the newest first."""
        with self._connect() as db:
            return [_job(row) for row in db.execute("SELECT * FROM job ORDER BY created DESC, id")]

    def unfinished(self) -> Job | None:
        """The job that has not ended."""
        with self._connect() as db:
            row = db.execute(f"SELECT * FROM job WHERE state NOT IN {_ENDED}").fetchone()  # noqa: S608
        return _job(row) if row else None

    def text(self, job: str) -> str:
        """The uploaded text of a job that has not ended."""
        with self._connect() as db:
            return str(db.execute("SELECT text FROM upload WHERE job = ?", (job,)).fetchone()[0])

    def events(self, job: str, after: int = 0) -> list[Event]:
        """A job's events with an id above `after`, in order."""
        with self._connect() as db:
            rows = db.execute("SELECT id, kind, data FROM event WHERE job = ? AND id > ? ORDER BY id", (job, after))
            return [Event(row["id"], row["kind"], json.loads(row["data"])) for row in rows]

    def enter(self, job: str, phase: Phase, total: int) -> None:
        """The job's worker begins a phase of `total` steps. Nothing if the job has ended, here as in `advance`."""
        update = f"UPDATE job SET state = ?, done = 0, total = ? WHERE id = ? AND state NOT IN {_ENDED}"  # noqa: S608
        with self._connect() as db:
            if db.execute(update, (phase, total, job)).rowcount:
                _tell(db, job, "state", {"state": phase, "total": total})

    def advance(self, job: str, done: int, loss: float | None = None) -> None:
        """`done` steps of the present phase are made; the training loss, if that is what the phase does."""
        update = f"UPDATE job SET done = ?, loss = coalesce(?, loss) WHERE id = ? AND state NOT IN {_ENDED}"  # noqa: S608
        data = {"done": done} if loss is None else {"done": done, "loss": loss}
        with self._connect() as db:
            if db.execute(update, (done, loss, job)).rowcount:
                _tell(db, job, "progress", data)

    def judge(self, job: str, rival: str, better: bool, figures: list[dict[str, Any]], message: str) -> None:
        """The job's model is written: whether it is better than the model `rival`, and the figures and words for it."""
        insert = f"REPLACE INTO comparison SELECT id, ?, ?, ?, ? FROM job WHERE id = ? AND state NOT IN {_ENDED}"  # noqa: S608
        with self._connect() as db:
            db.execute(insert, (rival, better, json.dumps(figures), message, job))

    def verdict(self, job: str) -> bool | None:
        """Whether the model of a job that has not ended is better; None when it is not known yet."""
        with self._connect() as db:
            row = _verdict(db, job)
        return bool(row["better"]) if row else None

    def finish(self, job: str, base: str, active: str) -> bool:
        """The judged job is done; whether its model takes over, in the same transaction: if it is better, and was
        compared with `active`, the active model. Nothing if it ended before.
        """
        update = "UPDATE job SET figures = ?, promoted = ?, done = total WHERE id = ?"
        with self._connect() as db:
            verdict = _verdict(db, job)
            if not verdict:
                return False
            promoted, message = bool(verdict["better"]), verdict["message"]
            if promoted and verdict["rival"] != active:
                promoted, message = False, _overtaken(job, verdict["rival"], active)
            if not _end(db, job, "done", message):
                return False
            db.execute(update, (verdict["figures"], promoted, job))
            if promoted:
                db.execute("REPLACE INTO active VALUES (1, ?, ?)", (job, base))
            return promoted

    def end(self, job: str, how: End, message: str) -> bool:
        """The job failed or is cancelled; False if it ended before."""
        with self._connect() as db:
            return _end(db, job, how, message)

    def started(self, job: str) -> None:
        """A worker begins the job, from its start. A job begun too often fails."""
        with self._connect() as db:
            db.execute("UPDATE job SET starts = starts + 1, done = 0, loss = NULL WHERE id = ?", (job,))
            db.execute("DELETE FROM comparison WHERE job = ?", (job,))
            if db.execute("SELECT starts FROM job WHERE id = ?", (job,)).fetchone()[0] > STARTS:
                _end(db, job, "failed", f"given up after {STARTS} starts; upload the file again")

    def died(self, job: str, reason: str) -> None:
        """The job's worker ended without ending the job: the job waits for another one, or fails the third time."""
        with self._connect() as db:
            db.execute("UPDATE job SET deaths = deaths + 1 WHERE id = ?", (job,))
            if db.execute("SELECT deaths FROM job WHERE id = ?", (job,)).fetchone()[0] >= DEATHS:
                _end(db, job, "failed", f"its worker ended {DEATHS} times, the last time with {reason}")
            else:
                _queue(db, job)

    def requeue(self) -> None:
        """After a restart: the job that was running waits again."""
        job = self.unfinished()
        if job and job.state != "queued":
            with self._connect() as db:
                _queue(db, job.id)

    def active(self, base: str) -> str | None:
        """The model chosen last, unless MODEL_PATH (`base`) has been changed since."""
        with self._connect() as db:
            row = db.execute("SELECT model FROM active WHERE base = ?", (base,)).fetchone()
        return str(row[0]) if row else None

    def activate(self, model: str, base: str) -> None:
        """Choose a model."""
        with self._connect() as db:
            db.execute("REPLACE INTO active VALUES (1, ?, ?)", (model, base))


def busy(job: Job | None) -> str:
    """What to say while a job runs."""
    name = job.id if job else "another one"
    return f"training job {name} has not ended; wait for it, or cancel it with DELETE /jobs/{name}"


def _overtaken(job: str, rival: str, active: str) -> str:
    return (
        f"better than model {rival}, but {active} has been activated meanwhile and stays; "
        f"to use the new model, POST /models/{job}/activate"
    )


def _tell(db: sqlite3.Connection, job: str, kind: str, data: dict[str, Any]) -> None:
    db.execute("INSERT INTO event (job, kind, data) VALUES (?, ?, ?)", (job, kind, json.dumps(data)))


def _queue(db: sqlite3.Connection, job: str) -> None:
    update = f"UPDATE job SET state = 'queued', done = 0, loss = NULL WHERE id = ? AND state NOT IN {_ENDED}"  # noqa: S608
    if db.execute(update, (job,)).rowcount:
        _tell(db, job, "state", {"state": "queued"})


def _verdict(db: sqlite3.Connection, job: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute("SELECT * FROM comparison WHERE job = ?", (job,)).fetchone()
    return row


def _end(db: sqlite3.Connection, job: str, how: End, message: str) -> bool:
    update = f"UPDATE job SET state = ?, message = ?, ended = ? WHERE id = ? AND state NOT IN {_ENDED}"  # noqa: S608
    if not db.execute(update, (how, message, time.time(), job)).rowcount:
        return False
    db.execute("DELETE FROM upload WHERE job = ?", (job,))
    db.execute("DELETE FROM comparison WHERE job = ?", (job,))
    _tell(db, job, "state", {"state": how, "message": message})
    return True
