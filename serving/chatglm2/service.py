"""One chat request from bytes to a reply or a stream; knows no web framework and no model.

Admission, limits, deadlines and shutdown are decided here, once, for every engine and both adapters.
"""

import asyncio
import contextlib
import hmac
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass

import structlog

from chatglm2 import replies
from chatglm2.answer import Answer
from chatglm2.detokenizer import Detokenizer
from chatglm2.engines.base import Engine, Finish, Step
from chatglm2.errors import BadRequest, Busy, ChatError, DeadlinePassed, TooLarge, Unauthorized, Unavailable
from chatglm2.prompt import Prompter
from chatglm2.replies import Result
from chatglm2.requests import ChatRequest, parse
from chatglm2.settings import Settings

log = structlog.get_logger()


@dataclass(frozen=True)
class Call:
    """What an adapter read from HTTP."""

    body: bytes
    content_type: str | None = None
    authorization: str | None = None


@dataclass(frozen=True)
class Reply:
    """What an adapter writes to HTTP. Streams must be closed by whoever reads them: that ends their request."""

    content_type: str
    body: str | AsyncGenerator[str, None]


@dataclass(frozen=True)
class Change:
    """A visible change of an answer; the last one has the result."""

    delta: str
    text: str
    result: Result | None = None


class ChatService:
    """Answers requests with one engine, and counts them."""

    def __init__(
        self, engine: Engine, prompter: Prompter, detokenizers: Callable[[], Detokenizer], settings: Settings
    ) -> None:
        self._engine = engine
        self._prompter = prompter
        self._detokenizers = detokenizers
        self._settings = settings
        self._in_flight = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def ready(self) -> bool:
        """Whether a request sent now would be answered."""
        return not self._draining and self._engine.ready()

    async def drain(self) -> None:
        """Refuse new requests from now on, and return when those in flight have ended."""
        self._draining = True
        await self._idle.wait()

    async def close(self) -> None:
        """Drain, then stop the engine."""
        await self.drain()
        await self._engine.close()

    async def handle(self, call: Call) -> Reply:
        """The reply to one request; a stream begins with its first line ready. Raises ChatError, nothing else."""
        request_id, started = uuid.uuid4().hex, time.monotonic()
        try:
            reply = await self._reply(call, request_id)
        except ChatError as error:
            log.info("refused", request_id=request_id, status=error.status, seconds=_since(started))
            raise
        except Exception as error:
            log.exception("failed", request_id=request_id)
            raise _internal(request_id) from error
        log.info("answered", request_id=request_id, stream=not isinstance(reply.body, str), seconds=_since(started))
        return reply

    async def _reply(self, call: Call, request_id: str) -> Reply:
        self._check(call)
        request = parse(call.body)
        if not request.question.strip() and not self._prompter.takes_empty_question:
            raise BadRequest("inputs: the question is empty; send some text")
        changes = self._answer(request)
        if request.parameters.stream:
            return Reply("application/x-ndjson", self._stream(request, await anext(changes), changes, request_id))
        async with contextlib.aclosing(changes):
            result = [change.result async for change in changes][-1]
            return Reply("application/json", replies.whole(request, _present(result)))

    def _check(self, call: Call) -> None:
        key = self._settings.api_key
        given = (call.authorization or "").removeprefix("Bearer ").encode()
        if key is not None and not hmac.compare_digest(given, key.get_secret_value().encode()):
            raise Unauthorized("Authorization: missing or wrong; send 'Authorization: Bearer <API key>'")
        if len(call.body) > self._settings.max_body_bytes:
            raise TooLarge(self._settings.max_body_bytes)
        kind = (call.content_type or "application/json").split(";")[0].strip().lower()
        if not kind.endswith(("/json", "+json")):
            raise BadRequest(f"Content-Type: got {kind[:60]!r}; send application/json")

    async def _stream(
        self, request: ChatRequest, first: Change, changes: AsyncGenerator[Change, None], request_id: str
    ) -> AsyncGenerator[str, None]:
        """Lines of a stream. What fails after the first line is said in the last."""
        async with contextlib.aclosing(changes):
            try:
                yield _line(request, first)
                async for change in changes:
                    yield _line(request, change)
            except ChatError as error:
                log.info("stream ended early", request_id=request_id, status=error.status)
                yield replies.failure(error.body())
            except Exception:
                log.exception("failed", request_id=request_id)
                yield replies.failure(_internal(request_id).body())

    async def _answer(self, request: ChatRequest) -> AsyncGenerator[Change, None]:
        deadline = asyncio.get_running_loop().time() + self._settings.deadline_seconds
        with self._place():
            prompt = await asyncio.to_thread(self._prompter.encode, request.messages)
            sampling = request.sampling(len(prompt), self._engine.limits, self._settings.max_new_tokens)
            answer = Answer(self._detokenizers(), tuple(request.parameters.stop))
            tokens, finish = 0, None
            async with contextlib.aclosing(_until(deadline, self._engine.generate(prompt, sampling))) as steps:
                async for step in steps:
                    tokens, finish = tokens + 1, step.finish
                    if delta := answer.push(step.token):
                        yield Change(delta, answer.text)
                    if answer.stopped:
                        break
            delta = answer.finish()
            ended: Finish = "stop" if answer.stopped else finish or "length"
            yield Change(delta, answer.text, Result(answer.text, ended, len(prompt), tokens))

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """A place among the requests in flight. Raises Unavailable or Busy."""
        if self._draining:
            raise Unavailable("the service is shutting down; send the request again to another instance")
        places = self._settings.max_running + self._settings.max_waiting
        if self._in_flight >= places:
            raise Busy(f"all {places} places are taken; try again in a few seconds", retry_after=5)
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()


async def _until(deadline: float, steps: AsyncGenerator[Step, None]) -> AsyncGenerator[Step, None]:
    """`steps` up to `deadline` on the event loop's clock. Raises DeadlinePassed."""
    async with contextlib.aclosing(steps):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    step = await anext(steps)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise DeadlinePassed("the request took longer than a request may; ask for fewer tokens") from None
            yield step


def _line(request: ChatRequest, change: Change) -> str:
    if change.result is None:
        return replies.change(change.text, change.delta)
    return replies.last(request, change.result, change.delta)


def _present(result: Result | None) -> Result:
    assert result is not None, "an answer ends with its result"  # noqa: S101
    return result


def _internal(request_id: str) -> ChatError:
    return ChatError(f"internal error; please report it with request id {request_id}")


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
