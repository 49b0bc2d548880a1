"""The models a service can switch between: `default`, which MODEL_PATH names, and one of each finished job."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denoiser.errors import CheckpointError, UnknownError
from denoiser.jobs.store import Store
from denoiser.model import checkpoint

DEFAULT = "default"


@dataclass(frozen=True)
class Model:
    """One checkpoint, where its text came from, and how it did on text held out from it (empty: not measured)."""

    id: str
    active: bool
    sha256: str
    filename: str | None
    sentences: int | None
    created: float | None
    figures: list[dict[str, Any]]
    message: str


class Models:
    """The checkpoints in the data folder, and the one that MODEL_PATH names."""

    def __init__(self, folder: Path, default: Path, store: Store) -> None:
        self._folder, self._default, self._store = folder, default, store

    @property
    def base(self) -> str:
        """What a choice is tied to: another MODEL_PATH makes it void."""
        return str(self._default.resolve())

    def active(self) -> str:
        """The id of the model in use."""
        return self._store.active(self.base) or DEFAULT

    def folder(self, model: str) -> Path:
        """Where a job's model is, or will be."""
        return self._folder / model

    def unfinished(self) -> list[Path]:
        """What is left of checkpoints whose writing was cut short, and of jobs that were cancelled or failed."""
        dropped = {job.id for job in self._store.all() if job.state in ("cancelled", "failed")}
        return [path for path in self._folder.iterdir() if checkpoint.is_unfinished(path) or path.name in dropped]

    def find(self, model: str) -> Path:
        """The checkpoint of a model. Raises UnknownError."""
        if model == DEFAULT:
            return self._default
        if any(job.id == model and job.state == "done" for job in self._store.all()):
            return self.folder(model)
        raise UnknownError(f"there is no model {model!r:.60}; GET /models lists them")

    def all(self) -> list[Model]:
        """Every model, `default` first, then the newest."""
        active = self.active()
        digest, described = _digest(self._default)
        listed = [Model(DEFAULT, active == DEFAULT, digest, None, described, None, [], "")]
        for job in self._store.all():
            if job.state == "done":
                listed.append(
                    Model(
                        id=job.id,
                        active=active == job.id,
                        sha256=_digest(self.folder(job.id))[0],
                        filename=job.filename,
                        sentences=job.sentences,
                        created=job.ended,
                        figures=job.figures,
                        message=job.message,
                    )
                )
        return listed


def _digest(path: Path) -> tuple[str, int | None]:
    """SHA-256 of a checkpoint, or that it is damaged, and the sentences it was trained on, where it says so."""
    try:
        manifest = checkpoint.read_manifest(path)
    except CheckpointError:
        return "damaged", None
    return manifest["sha256"], manifest.get("training_sentences")
