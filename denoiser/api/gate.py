"""What every request passes: key, request id, log line, metrics, and the reading of its body within limits.

Also whether it comes from this machine, for routes that others may not use without a key.
"""

import asyncio
import hmac
import ipaddress
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from denoiser.api.metrics import Metrics
from denoiser.errors import BusyError, DenoiserError, MediaTypeError, NotReadyError, SlowError, TooLargeError

OPENAI_ROUTE = "/v1/embeddings"
OPEN_ROUTES = ("/health", "/ping")
OPEN_PAGES = "/console"  # the page and its files hold nothing; what they ask for needs the key
BODY_SECONDS = 60
GONE = 499  # nginx's status for a client that went away; HTTP has none
_log = structlog.get_logger()
Result = TypeVar("Result")
Next = Callable[[Request], Awaitable[Response]]


def refuse(request: Request, status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error in FastAPI's shape, and also in OpenAI's on its route, where its clients look for nothing else."""
    openai = {"error": {"message": detail, "code": status}} if request.url.path == OPENAI_ROUTE else {}
    return JSONResponse({"detail": detail, **openai}, status, headers)


def refusal(request: Request, error: Exception) -> Response:
    """The reply to a DenoiserError."""
    status = error.status if isinstance(error, DenoiserError) else 500
    headers = {"Retry-After": "1"} if isinstance(error, BusyError | NotReadyError) else None
    return refuse(request, status, str(error), headers)


def invalid(request: Request, error: RequestValidationError) -> Response:
    """The reply to a parameter in the path or query that cannot be used, in one line as every other refusal."""
    first = error.errors()[0]
    allowed = "send true or false" if first["type"] == "bool_parsing" else first["msg"]
    return refuse(request, 422, f"{first['loc'][-1]} is {first['input']!r:.60}; {allowed}")


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_from_here(request: Request) -> bool:
    """Whether a program or page of this machine sent a request, and not a page of another site through its browser."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    try:
        return is_local(urlsplit(f"//{host}").hostname or "") and (not origin or urlsplit(origin).netloc == host)
    except ValueError:
        return False


@asynccontextmanager
async def arriving_within(seconds: float, what: str = "the body") -> AsyncIterator[None]:
    """For the reading of a body, or of what of it is named. Raises SlowError when the block takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise SlowError(f"{what} did not arrive within {seconds:g} seconds; send it again, or less at once") from error


async def limited(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """The pieces of a body of at most `most` bytes. Raises TooLargeError, MediaTypeError for a compressed one."""
    size, encoding = 0, request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
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


async def read_limited(
    request: Request, most: int, count: Callable[[int], None], seconds: float = BODY_SECONDS
) -> bytes:
    """The whole body; `count` is told of every piece. Raises as `limited`, SlowError when it stops arriving."""
    pieces = []
    async with arriving_within(seconds):
        async for piece in limited(request, most):
            count(len(piece))
            pieces.append(piece)
    return b"".join(pieces)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, once the body has been read. Raises ClientDisconnect, the work cancelled."""
    task, gone = asyncio.create_task(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


def _unauthorised(request: Request) -> Response:
    detail = "this route needs the header Authorization: Bearer <API_KEY>"
    return refuse(request, 401, detail, {"WWW-Authenticate": "Bearer"})


class Gate:
    """The middleware of one app."""

    def __init__(self, key: str | None, metrics: Metrics, stopping: threading.Event) -> None:
        self._key, self._metrics, self._stopping = key, metrics, stopping

    async def around(self, request: Request, call_next: Next) -> Response:
        """Key, request id, log line and metrics of a request; a bug becomes a 500 with the id."""
        start, request_id = time.perf_counter(), uuid.uuid4().hex
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            response = await call_next(request) if self._allowed(request) else _unauthorised(request)
        except ClientDisconnect:
            response = refuse(request, GONE, "the client went away")
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
            response = refuse(request, 503, "the service shut down before it could answer; ask another one")
        except Exception:
            _log.exception("bug")
            response = refuse(request, 500, f"internal error; the log has it under request id {request_id}")
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
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return (
            self._key is None
            or request.url.path in OPEN_ROUTES
            or request.url.path == OPEN_PAGES
            or request.url.path.startswith(f"{OPEN_PAGES}/")
            or (scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._key.encode()))
        )
