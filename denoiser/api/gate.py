"""What every request passes: key, request id, log line, metrics, and the reading of its body within limits."""

import asyncio
import hmac
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable

import structlog
from fastapi import Request, Response
from fastapi.responses import JSONResponse

from denoiser.api.metrics import Metrics
from denoiser.errors import BusyError, DenoiserError, MediaTypeError, NotReadyError, TooLargeError

OPEN_ROUTES = ("/", "/health", "/ping")
OPEN_PAGES = "/console"  # the page and its files hold nothing; what they ask for needs the key
BODY_SECONDS = 60
_log = structlog.get_logger()
Next = Callable[[Request], Awaitable[Response]]


def refuse(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error in FastAPI's shape."""
    return JSONResponse({"detail": detail}, status, headers)


def refusal(_: Request, error: Exception) -> Response:
    """The reply to a DenoiserError, or to a body that stopped arriving."""
    if isinstance(error, TimeoutError):
        return refuse(408, f"the body did not arrive within {BODY_SECONDS} seconds")
    status = error.status if isinstance(error, DenoiserError) else 500
    return refuse(status, str(error), {"Retry-After": "1"} if isinstance(error, BusyError | NotReadyError) else None)


async def limited(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """The pieces of a body of at most `most` bytes. Raises TooLargeError, MediaTypeError for a compressed one."""
    size, encoding = 0, request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise MediaTypeError(f"the body has Content-Encoding {encoding!r:.40}; send it uncompressed")
    declared = request.headers.get("content-length", "")
    async for piece in request.stream():
        size += len(piece)
        if size <= most:
            yield piece
        elif size > 4 * most:  # up to here the rest is read and dropped, so that the client sees the reply
            break
    if size > most:
        raise TooLargeError(f"the body has {declared or f'more than {most}'} bytes; at most {most} are taken")


async def read_limited(request: Request, most: int, count: Callable[[int], None]) -> bytes:
    """The whole body; `count` is told of every piece. Raises as `limited`, TimeoutError when it stops arriving."""
    pieces = []
    async with asyncio.timeout(BODY_SECONDS):
        async for piece in limited(request, most):
            count(len(piece))
            pieces.append(piece)
    return b"".join(pieces)


class Gate:
    """The middleware of one app."""

    def __init__(self, key: str | None, metrics: Metrics) -> None:
        self._key, self._metrics = key, metrics

    async def around(self, request: Request, call_next: Next) -> Response:
        """Key, request id, log line and metrics of a request; a bug becomes a 500 with the id."""
        start, request_id = time.perf_counter(), uuid.uuid4().hex
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            response = await call_next(request) if self._allowed(request) else self._unauthorised()
        except Exception:
            _log.exception("bug")
            response = refuse(500, f"internal error; the log has it under request id {request_id}")
        response.headers["x-request-id"] = request_id
        self._note(request, response.status_code, time.perf_counter() - start)
        return response

    def _note(self, request: Request, status: int, seconds: float) -> None:
        route = getattr(request.scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if status == 429:
            self._metrics.refused.inc()
        if route not in OPEN_ROUTES:
            _log.info("request", route=route, status=status, ms=round(1000 * seconds, 1))

    def _allowed(self, request: Request) -> bool:
        given = request.headers.get("authorization", "").encode()
        return (
            self._key is None
            or request.url.path in OPEN_ROUTES
            or request.url.path == OPEN_PAGES
            or request.url.path.startswith(f"{OPEN_PAGES}/")
            or hmac.compare_digest(given, f"Bearer {self._key}".encode())
        )

    def _unauthorised(self) -> Response:
        detail = "this route needs the header Authorization: Bearer <API_KEY>"
        return refuse(401, detail, {"WWW-Authenticate": "Bearer"})
