"""Uploads, jobs and models over HTTP. Reading is open as the other routes are; changing is for the key's owner."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import structlog
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse, ServerSentEvent

from denoiser.api.gate import is_from_here
from denoiser.api.job_replies import describe_job, describe_model, losses_of
from denoiser.api.schemas import JobReply, ModelReply, UploadAccepted, UploadTrained, refusals
from denoiser.api.uploads import receive
from denoiser.errors import BusyError, CheckpointError, ConflictError, InvalidInputError, NotReadyError, OffError
from denoiser.jobs.store import ENDS, Job, Store, busy
from denoiser.jobs.supervisor import Supervisor
from denoiser.jobs.training import Prepare, Training
from denoiser.text.plain import decode, find_sentences

POLL_SECONDS = 0.3
_EVENT_ID = re.compile("[0-9]{1,18}")  # those the store can hold
_log = structlog.get_logger()
_EVENTS = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}, **refusals(404)}
_FILE = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


class TrainingRoutes:
    """The handlers. `training` is a refusal where nothing is kept, `closed` is one where nothing may be changed."""

    def __init__(
        self,
        training: Training | OffError,
        max_bytes: int,
        has_key: bool,
        stopping: threading.Event,
        closed: OffError | None = None,
    ) -> None:
        self._training, self._max_bytes, self._has_key = training, max_bytes, has_key
        self._stopping, self._closed = stopping, closed
        self._supervisor: Supervisor | None = None
        self._prepare: Prepare | None = None
        self._receiving = asyncio.Semaphore(1)

    async def run(self, prepare: Prepare) -> None:
        """Once a model is loaded: go on with the job that waits, and then with others, until cancelled."""
        self._prepare, self._supervisor = prepare, self._on().supervisor(prepare)
        await self._supervisor.run()

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(responses=refusals(403, 503))
        changing = [Depends(self._may_change)]
        router.post(
            "/upload/",
            status_code=202,
            response_model=UploadAccepted,
            responses={200: {"model": UploadTrained}, **refusals(408, 409, 413, 415, 422, 429)},
            openapi_extra=_FILE,
            dependencies=changing,
        )(self.upload)
        router.get("/jobs", response_model=list[JobReply])(self.jobs)
        router.get("/jobs/{job_id}", response_model=JobReply, responses=refusals(404))(self.job)
        router.get("/jobs/{job_id}/events", response_class=EventSourceResponse, responses=_EVENTS)(self.events)
        router.delete("/jobs/{job_id}", response_model=JobReply, responses=refusals(404, 409), dependencies=changing)(
            self.cancel
        )
        router.get("/models", response_model=list[ModelReply])(self.models)
        router.post(
            "/models/{model_id}/activate",
            response_model=ModelReply,
            responses=refusals(404, 409),
            dependencies=changing,
        )(self.activate)
        return router

    async def upload(self, request: Request, wait: bool = False) -> Response:
        """Train on a UTF-8 text file, one sentence or paragraph a line; with `wait`, reply when training has ended."""
        training, supervisor = self._on(), self._supervisor
        if supervisor is None:
            raise NotReadyError("no model is loaded yet; ask /health and try again")
        if running := await asyncio.to_thread(training.store.unfinished):
            raise ConflictError(busy(running))
        if self._receiving.locked():
            raise BusyError("another file is being read; try again in a second")
        async with self._receiving:
            filename, content = await receive(request, self._max_bytes)
            job = await asyncio.to_thread(_queue, training.store, filename, content)
        supervisor.wake()
        if wait:
            return await self._trained(training.store, job)
        url = f"{request.scope.get('root_path', '')}/jobs/{job.id}"
        accepted = UploadAccepted(filename=filename, word_count=job.word_count, job_id=job.id, status_url=url)
        return JSONResponse(accepted.model_dump(), 202, {"Location": url})

    async def _trained(self, store: Store, job: Job) -> Response:
        while job.state not in ENDS:
            if self._stopping.is_set():
                raise NotReadyError(f"the service stops; job {job.id} goes on when it starts again")
            await asyncio.sleep(POLL_SECONDS)
            job = await asyncio.to_thread(store.get, job.id)
        if job.state == "cancelled":
            raise ConflictError(f"job {job.id} was cancelled")
        if job.state == "failed" or job.loss is None:
            raise InvalidInputError(f"job {job.id} failed: {job.message}")
        trained = UploadTrained(filename=job.filename, word_count=job.word_count, loss=job.loss)
        return JSONResponse(trained.model_dump())

    def jobs(self) -> list[JobReply]:
        """Every training job, the newest first."""
        return [describe_job(self._with_trouble(job), []) for job in self._on().store.all()]

    def job(self, job_id: str) -> JobReply:
        """One training job with its loss curve."""
        store = self._on().store
        return describe_job(self._with_trouble(store.get(job_id)), losses_of(store, job_id))

    def _with_trouble(self, job: Job) -> Job:
        waits = job.state == "queued" and self._supervisor
        return replace(job, message=waits.trouble) if waits else job

    async def events(self, job_id: str, request: Request) -> EventSourceResponse:
        """A job's changes as server-sent events, from the first, or after `Last-Event-ID`; ends with the job."""
        store = self._on().store
        await asyncio.to_thread(store.get, job_id)
        last = request.headers.get("last-event-id", "")
        return EventSourceResponse(self._changes(store, job_id, int(last) if _EVENT_ID.fullmatch(last) else 0))

    async def _changes(self, store: Store, job: str, seen: int) -> AsyncIterator[ServerSentEvent]:
        while not self._stopping.is_set():
            ended = (await asyncio.to_thread(store.get, job)).state in ENDS
            for event in await asyncio.to_thread(store.events, job, seen):
                seen = event.id
                yield ServerSentEvent(json.dumps(event.data), event=event.kind, id=str(event.id))
            if ended:
                return
            await asyncio.sleep(POLL_SECONDS)

    async def cancel(self, job_id: str) -> JobReply:
        """Cancel a job that has not ended."""
        training = self._on()
        store = training.store
        await asyncio.to_thread(store.get, job_id)
        async with training.switching:
            cancelled = await asyncio.to_thread(store.end, job_id, "cancelled", "cancelled")
        if not cancelled:
            state = (await asyncio.to_thread(store.get, job_id)).state
            raise ConflictError(f"job {job_id} has ended already: it is {state}")
        if self._supervisor:
            self._supervisor.stop(job_id)
        return describe_job(await asyncio.to_thread(store.get, job_id), [])

    def models(self) -> list[ModelReply]:
        """Every model that can be switched to; `default` is the one that MODEL_PATH names."""
        return [describe_model(model) for model in self._on().models.all()]

    async def activate(self, model_id: str) -> ModelReply:
        """Denoise with another model from now on, and after a restart."""
        training = self._on()
        if self._prepare is None:
            raise NotReadyError("no model is loaded yet; ask /health and try again")
        path = await asyncio.to_thread(training.models.find, model_id)
        async with training.switching:
            switch = await _prepared(self._prepare, path, model_id)
            await asyncio.to_thread(training.store.activate, model_id, training.models.base)
            switch()
        listed = await asyncio.to_thread(training.models.all)
        return describe_model(next(model for model in listed if model.id == model_id))

    def _on(self) -> Training:
        if isinstance(self._training, OffError):
            raise OffError(str(self._training))  # the same one again and again would keep every request it refused
        return self._training

    def _may_change(self, request: Request) -> None:
        """Nobody may change anything where that is off, nor, without a key, pages of other sites. Raises OffError."""
        if self._closed:
            raise OffError(str(self._closed))
        if not self._has_key and not is_from_here(request):
            raise OffError(
                "without API_KEY, uploads and model switching are for pages and programs of this machine alone"
            )


async def _prepared(prepare: Prepare, path: Path, model: str) -> Callable[[], None]:
    try:
        return await prepare(path)
    except CheckpointError as error:
        _log.warning("a model cannot be loaded", model=model, reason=str(error))
        raise ConflictError(f"model {model} is damaged or missing; the log says more. Activate another one") from error


def _queue(store: Store, filename: str, content: bytes) -> Job:
    text = decode(content)
    return store.add(filename, text, len(find_sentences(text)))
