"""HTTP adapter for machines without Java: the routes of the chat contract over a `ChatService`, nothing else.

A client that goes away cancels its request.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from chatglm2.errors import ChatError, DeadlinePassed, NotFound, Unavailable
from chatglm2.service import Call, ChatService, Reply
from chatglm2.settings import Settings

log = structlog.get_logger()


class Server(uvicorn.Server):
    """Lets running requests finish when it is stopped, and those that take too long end as the contract says."""

    def __init__(self, config: uvicorn.Config, service: ChatService, drain_seconds: float) -> None:
        super().__init__(config)
        self._service, self._drain_seconds = service, drain_seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain the service while uvicorn waits for its connections."""
        draining = asyncio.create_task(self._service.drain(self._drain_seconds))
        await super().shutdown(sockets)
        if self.force_exit:  # told twice; then uvicorn waits for nothing, and does not close the application either
            await self._service.close()
        await draining


def create_app(service: ChatService, settings: Settings) -> FastAPI:
    """The ASGI application; it closes `service` when it shuts down."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(title="chat", lifespan=lifespan, openapi_url=None, redirect_slashes=False)

    @app.api_route("/ping", methods=["GET", "HEAD"])
    async def ping() -> dict[str, str]:
        if not service.ready():
            raise Unavailable("the model cannot answer at the moment")
        return {"status": "Healthy"}

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        return service.models(request.headers.get("authorization"))

    @app.post("/invocations")
    @app.post("/predictions/chatglm2")
    @app.post("/v1/chat/completions")
    async def invoke(request: Request) -> Response:
        async with service.receiving():
            body = await _read(request, settings.max_body_bytes)
        call = Call(body, request.headers.get("content-type"), request.headers.get("authorization"))
        reply = await _unless_gone(request, service.handle(call))
        if isinstance(reply.body, str):
            return Response(reply.body, media_type=reply.content_type)
        return _Stream(reply.body, reply.content_type, service)

    app.add_exception_handler(ChatError, _error)
    app.add_exception_handler(HTTPException, _unknown_route)
    return app


async def _read(request: Request, most: int) -> bytes:
    """The body, or as much of it as shows that it is longer than `most`, which the service refuses."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                break
    except ClientDisconnect:
        raise Unavailable("the client went away") from None
    return bytes(body)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Reply]) -> Reply:
    """The result of `work`, which is cancelled if the client goes away first."""
    task, gone = asyncio.create_task(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Unavailable("the client went away")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


class _Stream(StreamingResponse):
    """Closes `parts` however it ends: read to the end, left by its client, or not read in time."""

    def __init__(self, parts: AsyncGenerator[str, None], media_type: str, service: ChatService) -> None:
        super().__init__(parts, media_type=media_type)
        self._parts, self._service = parts, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._parts):
            try:
                async with self._service.sending():
                    await super().__call__(scope, receive, send)
            except ChatError:
                log.warning("a client did not read its stream in time")


async def _error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ChatError)  # noqa: S101
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    if isinstance(error, DeadlinePassed):
        headers["x-should-retry"] = "false"  # to OpenAI's clients, which would ask twice more for what takes too long
    return JSONResponse(error.body(), error.status, headers)


async def _unknown_route(request: Request, _: Exception) -> Response:
    return await _error(
        request,
        NotFound(
            "no such route; there are GET /ping and /v1/models, and POST /invocations, /predictions/chatglm2, "
            "/v1/chat/completions"
        ),
    )
