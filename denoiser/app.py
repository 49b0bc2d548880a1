"""The denoiser over HTTP. Thin: bodies go to `service`, computing to `worker`.

Here are routes, body limits, keys, logs and metrics; nothing here blocks the event loop.
"""

import asyncio
import hmac
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from denoiser.errors import BusyError, DenoiserError, NotReadyError, TooLargeError
from denoiser.metrics import Metrics
from denoiser.requests import Kind
from denoiser.schemas import DenoiseReply, EmbeddingRequest, Health, Message, Refusal, TextRequest
from denoiser.service import Service
from denoiser.settings import Settings
from denoiser.worker import Worker

OPEN_ROUTES = ("/", "/health", "/ping")
BODY_SECONDS = 60
_log = structlog.get_logger()
_Next = Callable[[Request], Awaitable[Response]]


def refuse(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error in FastAPI's shape."""
    return JSONResponse({"detail": detail}, status, headers)


async def read_limited(request: Request, most: int) -> bytes:
    """The body; raises TooLargeError before anything is parsed, TimeoutError when it stops arriving."""
    pieces, size = [], 0
    declared = request.headers.get("content-length", "")
    async with asyncio.timeout(BODY_SECONDS):
        async for piece in request.stream():
            size += len(piece)
            if size <= most:
                pieces.append(piece)
            elif size > 4 * most:  # up to here the rest is read and dropped, so that the client sees the reply
                break
    if size > most:
        raise TooLargeError(f"the body has {declared or f'more than {most}'} bytes; at most {most} are taken")
    return b"".join(pieces)


def _body_schema(*kinds: Kind) -> dict[str, Any]:
    schemas = [kind.model_json_schema(ref_template="#/components/schemas/{model}") for kind in kinds]
    schema = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


class _Routes:
    """The route handlers, sharing one app's parts."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.worker = Worker(settings.queue_size)
        self.service: Service | None = None

    def root(self) -> Message:
        return Message(message="Sentence-embedding denoiser. The routes and their bodies are described at /docs.")

    def health(self) -> Health:
        device = self.service.denoiser.device if self.service else None
        return Health(status="healthy" if device else "not_ready", model_loaded=bool(device), device=device)

    def ping(self, response: Response) -> Health:
        health = self.health()
        response.status_code = 200 if health.model_loaded else 503
        return health

    def exposition(self) -> Response:
        self.metrics.ready.set(self.service is not None)
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def text(self, request: Request) -> Response:
        """Embed texts (the encoder reads the first 256 word pieces of each), add noise, and denoise."""
        return await self._denoise(request, TextRequest)

    async def embedding(self, request: Request) -> Response:
        """Denoise embeddings."""
        return await self._denoise(request, EmbeddingRequest)

    async def invocations(self, request: Request) -> Response:
        """Denoise texts or embeddings, whichever the body holds."""
        return await self._denoise(request, TextRequest, EmbeddingRequest)

    async def _denoise(self, request: Request, *kinds: Kind) -> Response:
        body = await read_limited(request, self.settings.max_body_bytes)
        service = self.service
        if service is None:
            raise NotReadyError("no model is loaded yet; ask /health and try again")
        reply, rows = await self.worker.run(lambda: service.reply(body, *kinds))
        self.metrics.rows.inc(rows)
        return Response(reply, media_type="application/json")

    async def around(self, request: Request, call_next: _Next) -> Response:
        """Key, request id, log line and metrics of every request; a bug becomes a 500 with the id."""
        start, request_id = time.perf_counter(), uuid.uuid4().hex
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            response = await call_next(request) if self._allowed(request) else self._unauthorised()
        except Exception:
            _log.exception("bug")
            response = refuse(500, f"internal error; the log has it under request id {request_id}")
        response.headers["x-request-id"] = request_id
        route = getattr(request.scope.get("route"), "path", "other")
        seconds = time.perf_counter() - start
        self.metrics.requests.labels(route, response.status_code).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        if route not in OPEN_ROUTES:
            _log.info("request", route=route, status=response.status_code, ms=round(1000 * seconds, 1))
        return response

    def _allowed(self, request: Request) -> bool:
        key = self.settings.required_key
        given = request.headers.get("authorization", "").encode()
        return key is None or request.url.path in OPEN_ROUTES or hmac.compare_digest(given, f"Bearer {key}".encode())

    def _unauthorised(self) -> Response:
        detail = "this route needs the header Authorization: Bearer <API_KEY>"
        return refuse(401, detail, {"WWW-Authenticate": "Bearer"})


def _refusal(_: Request, error: Exception) -> Response:
    if isinstance(error, TimeoutError):
        return refuse(408, f"the body did not arrive within {BODY_SECONDS} seconds")
    status = error.status if isinstance(error, DenoiserError) else 500
    return refuse(status, str(error), {"Retry-After": "1"} if isinstance(error, BusyError | NotReadyError) else None)


def create_app(
    load: Callable[[], Service], settings: Settings, on_failure: Callable[[Exception], None] = lambda _: None
) -> FastAPI:
    """The app. `load` runs in the worker thread once the app has started; when it raises, `on_failure` is told."""
    routes = _Routes(settings)

    async def load_service() -> None:
        try:
            routes.service = await routes.worker.run(load)
            _log.info("ready", device=routes.service.denoiser.device)
        except Exception as error:
            on_failure(error)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(load_service())
        yield
        loading.cancel()
        routes.worker.close()

    app = FastAPI(title="Embedding denoiser", lifespan=lifespan, responses={422: {"model": Refusal}})
    app.get("/", response_model=Message)(routes.root)
    app.get("/health", response_model=Health)(routes.health)
    app.get("/ping", response_model=Health, responses={503: {"model": Health}})(routes.ping)
    app.get("/metrics", response_class=Response)(routes.exposition)
    post = partial(app.post, response_model=DenoiseReply)
    post("/denoise/text", openapi_extra=_body_schema(TextRequest))(routes.text)
    post("/denoise/embedding", openapi_extra=_body_schema(EmbeddingRequest))(routes.embedding)
    post("/invocations", openapi_extra=_body_schema(TextRequest, EmbeddingRequest))(routes.invocations)
    app.middleware("http")(routes.around)
    app.exception_handler(DenoiserError)(_refusal)
    app.exception_handler(TimeoutError)(_refusal)
    return app
