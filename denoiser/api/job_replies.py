"""Jobs and models as the routes give them."""

from dataclasses import asdict
from datetime import UTC, datetime

from denoiser.api.schemas import JobReply, LossPoint, ModelReply, Progress
from denoiser.jobs.models import Model
from denoiser.jobs.store import Job, Store


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def describe_job(job: Job, losses: list[LossPoint]) -> JobReply:
    """A job as the routes give it."""
    return JobReply.model_validate(
        {
            **asdict(job),
            "job_id": job.id,
            "progress": Progress(done=job.done, total=job.total),
            "losses": losses,
            "created_at": _time(job.created),
            "ended_at": _time(job.ended),
        }
    )


def describe_model(model: Model) -> ModelReply:
    """A model as the routes give it."""
    return ModelReply.model_validate({**asdict(model), "model_id": model.id, "created_at": _time(model.created)})


def losses_of(store: Store, job: str) -> list[LossPoint]:
    """The loss curve of a job's last start."""
    points: list[LossPoint] = []
    for event in store.events(job):
        if event.data.get("state") == "training":
            points = []
        if "loss" in event.data:
            points.append(LossPoint(step=event.data["done"], loss=event.data["loss"]))
    return points
