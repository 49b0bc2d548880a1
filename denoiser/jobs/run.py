"""A training job's worker process: encode, train, evaluate, and write the model and whether it is better.

It ends with the server that started it, and writes nothing but the store, its cache file and its model, each whole.
"""

import fcntl
import os
import sys
import threading
from pathlib import Path

import numpy as np
import structlog
from pydantic import BaseModel

from denoiser.errors import CheckpointError, ConflictError, DenoiserError, InvalidInputError, UnknownError
from denoiser.jobs.judge import Verdict, judge
from denoiser.jobs.models import Models
from denoiser.jobs.store import ENDS, Job, Store
from denoiser.logs import configure_logs
from denoiser.model import checkpoint
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import Embeddings, MiniLM, find_model
from denoiser.model.neighbours import FEWEST as FEWEST_MEASURED
from denoiser.model.training import fine_tuning
from denoiser.text.corpus import OWN_HELD_OUT, hold_out
from denoiser.text.embeddings import without_near_duplicates
from denoiser.text.plain import MOST, find_sentences

_log = structlog.get_logger()


class Order(BaseModel):
    """What a worker is told on its command line, as JSON."""

    data: Path
    default: Path
    encoder: Path | None
    """None is the embedded one."""
    job: str
    steps: int


def end_with_parent() -> None:
    """Leave at once when standard input, which the server holds, is closed."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # not through a file object, whose lock would be held when Python ends
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Run:
    """One job's way through its phases."""

    def __init__(self, order: Order) -> None:
        self.store = Store(order.data)
        self.models = Models(order.data / "models", order.default, self.store)
        self.job: Job = self.store.get(order.job)
        self.cache = order.data / "cache" / f"{order.job}.npy"
        self.encoder = order.encoder
        self.steps = order.steps

    def go(self) -> None:
        training, held_out = self._embeddings()
        rival = self.models.active()
        active = self._load(rival)
        start = active.trainable()
        recipe = fine_tuning(start.network, len(training), self.steps)
        self.store.enter(self.job.id, "training", recipe.steps)
        made = start.trained(training, recipe, lambda step, loss: self.store.advance(self.job.id, step, loss))
        self.store.enter(self.job.id, "evaluating", 1)
        verdict = judge(made, active, held_out)
        self.store.advance(self.job.id, 1)
        self._save(made, verdict)
        self.store.judge(self.job.id, rival, verdict.better, verdict.figures, verdict.reason)

    def _load(self, model: str) -> Denoiser:
        try:
            return Denoiser.load(self.models.find(model))
        except (CheckpointError, UnknownError) as error:
            _log.error("the active model cannot be loaded", job=self.job.id, reason=str(error))
            raise ConflictError("the active model is damaged or missing; activate another and upload again") from error

    def _save(self, made: Denoiser, verdict: Verdict) -> None:
        self.store.enter(self.job.id, "promoting", 1)
        described = {"sources": [{"file": self.job.filename, "use": "training"}], "figures": verdict.figures}
        checkpoint.save(self.models.folder(self.job.id), made.network, {**made.manifest, **described})

    def _embeddings(self) -> tuple[Embeddings, Embeddings]:
        held_out, learnt = hold_out(find_sentences(self.store.text(self.job.id)), 0, OWN_HELD_OUT)
        training = learnt[: MOST - len(held_out)]
        vectors = self._encode(training + held_out)
        seen = vectors[: len(training)]
        unseen = without_near_duplicates(vectors[len(training) :], seen)
        if len(unseen) < FEWEST_MEASURED:
            raise InvalidInputError(
                f"only {len(unseen)} of {len(held_out)} held-out sentences are unlike the others; at least "
                f"{FEWEST_MEASURED} are needed to measure the result: send more varied text"
            )
        return seen, unseen

    def _encode(self, texts: list[str]) -> Embeddings:
        self.store.enter(self.job.id, "encoding", len(texts))
        if self.cache.is_file():
            kept: Embeddings = np.load(self.cache)
            return kept
        done = 0

        def progress(more: int) -> None:
            nonlocal done
            done += more
            self.store.advance(self.job.id, done)

        vectors = MiniLM(self.encoder or find_model()).encode_corpus(texts, progress)
        incoming = self.cache.with_suffix(".incoming.npy")
        np.save(incoming, vectors)
        incoming.rename(self.cache)
        return vectors


def run(order: Order) -> None:
    """Do a job, unless it has ended meanwhile; a refusal or a bug ends it as failed."""
    work = _Run(order)
    if work.job.state in ENDS:
        return
    try:
        work.go()
    except DenoiserError as error:
        work.store.end(order.job, "failed", str(error))
    except Exception:
        _log.exception("bug in a training job", job=order.job)
        work.store.end(order.job, "failed", "internal error; the server's log has it under the job's id")


def main() -> None:
    """Wait until no other worker is at work in this data folder, then run the job of the command line."""
    order = Order.model_validate_json(sys.argv[1])
    end_with_parent()
    configure_logs()
    os.nice(10)
    with (order.data / "worker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(order)


if __name__ == "__main__":
    main()
