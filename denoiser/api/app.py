"""The denoiser over HTTP. Thin: what every request passes is in `gate`, bodies go to `service`.

Nothing here blocks the event loop.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from denoiser.api.batching import Admission, in_passing_thread
from denoiser.api.gate import OPEN_PAGES, OPENAI_ROUTE, Gate, invalid, read_limited, refusal, unless_gone
from denoiser.api.metrics import Metrics
from denoiser.api.schemas import (
    Body,
    CompareReply,
    CompareRequest,
    DenoiseReply,
    EmbeddingRequest,
    Health,
    Message,
    OpenAIEmbeddingsReply,
    OpenAIEmbeddingsRequest,
    OpenAIModel,
    OpenAIModels,
    OpenAIRefusal,
    TextRequest,
    refusals,
)
from denoiser.api.service import Reply, Service
from denoiser.api.training_routes import TrainingRoutes
from denoiser.errors import DenoiserError, NotReadyError, OffError
from denoiser.jobs.training import Prepare, Training
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import MODEL_NAME
from denoiser.settings import Settings

CONSOLE = Path(__file__).parent / "console"
BODIES_IN_MEMORY = 4  # as many of the largest size
_UNUSABLE = (408, 413, 415, 422, 429, 503)
_log = structlog.get_logger()
_Answer = Callable[[Service, bytes], Coroutine[Any, Any, Reply]]


def body_schema(*kinds: type[Body]) -> dict[str, Any]:
    """The OpenAPI description of a JSON body that is one of the kinds."""
    schemas = [kind.model_json_schema(ref_template="#/components/schemas/{model}") for kind in kinds]
    schema = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


class _Routes:
    """The route handlers, sharing one app's parts."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.admission = Admission(settings.queue_size, BODIES_IN_MEMORY * settings.max_body_bytes)
        self.service: Service | None = None
        self._started = int(time.time())

    def root(self) -> Message:
        return Message(message="Sentence-embedding denoiser. Try it at /console; /docs describes the routes.")

    def health(self) -> Health:
        device = self.service.denoiser.device if self.service else None
        return Health(status="healthy" if device else "not_ready", model_loaded=bool(device), device=device)

    def ping(self, response: Response) -> Health:
        health = self.health()
        response.status_code = 200 if health.model_loaded else 503
        return health

    def models(self) -> OpenAIModels:
        """The model that /v1/embeddings answers with, as OpenAI lists models."""
        return OpenAIModels(data=[OpenAIModel(id=MODEL_NAME, created=self._started)])

    def exposition(self) -> Response:
        self.metrics.ready.set(self.service is not None)
        self.metrics.waiting.set(self.admission.taken)
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def text(self, request: Request) -> Response:
        """Embed texts (the encoder reads the first 256 word pieces of each), add noise, and denoise."""
        return await self._answer(request, lambda service, body: service.denoise(body, TextRequest))

    async def embedding(self, request: Request) -> Response:
        """Denoise embeddings."""
        return await self._answer(request, lambda service, body: service.denoise(body, EmbeddingRequest))

    async def invocations(self, request: Request) -> Response:
        """Denoise texts or embeddings, whichever the body holds."""
        return await self._answer(request, lambda service, body: service.denoise(body, TextRequest, EmbeddingRequest))

    async def openai(self, request: Request) -> Response:
        """Embed texts as OpenAI's embeddings API does."""
        return await self._answer(request, Service.embed)

    async def compare(self, request: Request) -> Response:
        """Embed texts, add noise, denoise, and measure both against the clean embeddings."""
        return await self._answer(request, Service.compare)

    async def _answer(self, request: Request, answer: _Answer) -> Response:
        with self.admission.memory() as count:
            body = await read_limited(request, self.settings.max_body_bytes, count)
            if self.service is None:
                raise NotReadyError("no model is loaded yet; ask /health and try again")
            with self.admission.place():
                reply = await unless_gone(request, answer(self.service, body))
        self.metrics.rows.inc(reply.rows)
        return Response(reply.body, media_type="application/json")


def _add_open_routes(app: FastAPI, routes: _Routes) -> None:
    app.get("/", response_model=Message)(routes.root)
    app.get("/health", response_model=Health)(routes.health)
    app.get("/ping", response_model=Health, responses={503: {"model": Health}})(routes.ping)
    app.head("/ping", include_in_schema=False)(routes.ping)


def _router(routes: _Routes) -> APIRouter:
    router = APIRouter()
    page: dict[int | str, Any] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
    router.get("/metrics", response_class=Response, responses=page)(routes.exposition)
    router.get("/v1/models")(routes.models)
    post = partial(router.post, responses=refusals(*_UNUSABLE))
    denoise = partial(post, response_model=DenoiseReply)
    denoise("/denoise/text", openapi_extra=body_schema(TextRequest))(routes.text)
    denoise("/denoise/embedding", openapi_extra=body_schema(EmbeddingRequest))(routes.embedding)
    denoise("/invocations", openapi_extra=body_schema(TextRequest, EmbeddingRequest))(routes.invocations)
    post("/compare", response_model=CompareReply, openapi_extra=body_schema(CompareRequest))(routes.compare)
    router.post(
        OPENAI_ROUTE,
        response_model=OpenAIEmbeddingsReply,
        responses=refusals(*_UNUSABLE, body=OpenAIRefusal),
        openapi_extra=body_schema(OpenAIEmbeddingsRequest),
    )(routes.openai)
    return router


NO_TRAINING = OffError("uploads and model switching are off: this app has no data folder")


@dataclass(frozen=True)
class TrainingParts:
    """What training needs: jobs and models (or why they are off), how to open a model, and the end of the server.

    `closed` says why jobs and models can only be read.
    """

    training: Training | OffError = NO_TRAINING
    open_model: Callable[[Path], Denoiser] | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    closed: OffError | None = None


def create_app(
    load: Callable[[], Service],
    settings: Settings,
    on_failure: Callable[[Exception], None] = lambda _: None,
    parts: TrainingParts | None = None,
) -> FastAPI:
    """The app. `load` runs in a thread once the app has started; when it raises, `on_failure` is told."""
    routes, parts = _Routes(settings), parts or TrainingParts()
    has_key = settings.required_key is not None
    training = TrainingRoutes(parts.training, settings.max_upload_bytes, has_key, parts.stopping, parts.closed)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(_run(routes, training, load, parts))
        running.add_done_callback(lambda task: _report(task, on_failure))
        yield
        running.cancel()
        await asyncio.wait([running])
        if routes.service:
            routes.service.close()

    app = FastAPI(title="Embedding denoiser", lifespan=lifespan, responses=refusals(422))
    _add_open_routes(app, routes)
    for router in (_router(routes), training.router()):
        key = [Depends(HTTPBearer(auto_error=False))] if has_key else []  # for /docs; it is the gate that asks for it
        app.include_router(router, dependencies=key, responses=refusals(401) if has_key else None)
    app.mount(OPEN_PAGES, StaticFiles(directory=CONSOLE, html=True))
    app.middleware("http")(Gate(settings.required_key, routes.metrics, parts.stopping).around)
    app.exception_handler(DenoiserError)(refusal)
    app.exception_handler(RequestValidationError)(invalid)
    return app


async def _run(routes: _Routes, training: TrainingRoutes, load: Callable[[], Service], parts: TrainingParts) -> None:
    """Load, say that the service is ready, then train whatever is uploaded until cancelled."""
    routes.service = service = await in_passing_thread(load)
    _log.info("ready", device=service.denoiser.device)
    if not isinstance(parts.training, OffError) and parts.open_model:
        await training.run(_prepare_for(service, parts.open_model))


def _prepare_for(service: Service, open_model: Callable[[Path], Denoiser]) -> Prepare:
    async def prepare(path: Path) -> Callable[[], None]:
        model = await in_passing_thread(lambda: open_model(path))

        def switch() -> None:
            service.switch(model)
            _log.info("switched", model=path.name)

        return switch

    return prepare


def _report(task: asyncio.Task[None], on_failure: Callable[[Exception], None]) -> None:
    if not task.cancelled() and isinstance(error := task.exception(), Exception):
        on_failure(error)
