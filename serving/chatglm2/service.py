"""One chat request from bytes to a reply or a stream; knows no web framework and no model.

Admission, limits, deadlines and shutdown are decided here, once, for every engine and both adapters.
"""

import asyncio
import contextlib
import hmac
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any

import structlog

from chatglm2.contracts import parse
from chatglm2.contracts.base import Change, ChatRequest, Result
from chatglm2.contracts.body import shown
from chatglm2.contracts.openai_replies import list_of_models
from chatglm2.detokenizer import TokenTexts
from chatglm2.engines.base import Engine, Sampling
from chatglm2.errors import BadRequest, Busy, ChatError, NotFound, TooLarge, Unauthorized, Unavailable
from chatglm2.metrics import CLIENT_LEFT, Metrics
from chatglm2.prompt import Message, Prompter
from chatglm2.settings import Settings
from chatglm2.streams import Deadlines, merged
from chatglm2.writer import Writer

_SHORT_PROMPT, _TURN = 2000, 40
"""A prompt of so many characters, with `_TURN` added for each message, takes about a millisecond to tokenize: less than
another thread waits for Python's lock where the event loop is busy (`python -m bench pace`)."""

_LAST_PART = 1.0
"""Seconds for a client to take in why its stream ended."""

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


class ChatService:
    """Answers requests with one engine, and counts them."""

    def __init__(
        self, engine: Engine, prompter: Prompter, tokens: TokenTexts, settings: Settings, metrics: Metrics
    ) -> None:
        self._engine = engine
        self._prompter = prompter
        self._tokens = tokens
        self._settings = settings
        self._metrics = metrics
        self._created = int(time.time())
        self._in_flight = 0
        self._draining = False
        self._body_waits = Deadlines("send the body faster")
        self._answer_waits = Deadlines("ask for fewer tokens")
        self._reply_waits = Deadlines("read the stream faster")
        self._idle = asyncio.Event()
        self._idle.set()

    def ready(self) -> bool:
        """Whether a request sent now would be answered."""
        return not self._draining and self._engine.ready()

    def models(self, authorization: str | None) -> dict[str, Any]:
        """What OpenAI's list of models says. Raises Unauthorized."""
        self._check_key(authorization)
        return list_of_models(self._settings.served_name, self._engine.limits.context, self._created)

    def receiving(self) -> AbstractAsyncContextManager[None]:
        """For an adapter while it reads a body: until its deadline, or the shutdown begins. Raises DeadlinePassed,
        Unavailable."""
        return self._body_waits.within(self._deadline())

    def sending(self) -> AbstractAsyncContextManager[None]:
        """For an adapter while it writes a stream, whose client may read slowly or not at all: until `_LAST_PART` after
        its deadline, or after the end of all answers. Raises DeadlinePassed, Unavailable."""
        return self._reply_waits.within(self._deadline() + _LAST_PART)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._settings.deadline_seconds

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, and return when those in flight have ended; they fail after `seconds`."""
        self._draining = True
        self._body_waits.end()
        if await self._ended_within(seconds):
            return
        log.warning("shutting down before all answers have ended", answers=self._in_flight)
        self._answer_waits.end()
        if not await self._ended_within(_LAST_PART):
            self._reply_waits.end()
            await self._idle.wait()

    async def _ended_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        return self._idle.is_set()

    async def close(self) -> None:
        """End what is in flight, then stop the engine."""
        await self.drain(0)
        await self._engine.close()

    async def handle(self, call: Call) -> Reply:
        """The reply to one request; a stream begins with its first line ready. Raises ChatError, nothing else."""
        request_id, started = uuid.uuid4().hex, time.monotonic()
        try:
            reply = await self._reply(call, request_id)
        except ChatError as error:
            log.info("refused", request_id=request_id, status=error.status, seconds=_since(started))
            self._count(error.status)
            raise
        except Exception as error:
            log.exception("failed", request_id=request_id)
            self._count(ChatError.status)
            raise _internal(request_id) from error
        except asyncio.CancelledError:
            self._count(CLIENT_LEFT)
            raise
        if isinstance(reply.body, str):
            self._count(200)
        log.info("answered", request_id=request_id, stream=not isinstance(reply.body, str), seconds=_since(started))
        return reply

    async def _reply(self, call: Call, request_id: str) -> Reply:
        self._check(call)
        request = parse(call.body, request_id)
        self._check_request(request)
        changes = self._answers(request)
        if request.stream:
            stream = self._stream(request, await anext(changes), changes, request_id)
            return Reply(request.replies.stream_type, stream)
        async with contextlib.aclosing(changes):
            results = _results([change async for some in changes for change in some])
        return Reply("application/json", request.replies.whole(results))

    def _count(self, status: int) -> None:
        self._metrics.requests.labels(status).inc()

    def _check_key(self, authorization: str | None) -> None:
        key = self._settings.api_key
        if key is not None and not _bears(authorization or "", key.get_secret_value()):
            raise Unauthorized("Authorization: missing or wrong; send 'Authorization: Bearer <API key>'")

    def _check(self, call: Call) -> None:
        self._check_key(call.authorization)
        if len(call.body) > self._settings.max_body_bytes:
            raise TooLarge(self._settings.max_body_bytes)
        kind = (call.content_type or "application/json").split(";")[0].strip().lower()
        if not kind.endswith(("/json", "+json")):
            raise BadRequest(f"Content-Type: got {kind[:60]!r}; send application/json")

    def _check_request(self, request: ChatRequest) -> None:
        if request.model is not None and request.model.lower() not in self._settings.model_names:
            known = ", ".join(self._settings.model_names)
            raise NotFound(f"model: {shown(request.model)} is not served here; ask for one of {known}")
        if not request.question.strip() and not self._prompter.takes_empty_question:
            raise BadRequest(f"{request.budget.prompt_field}: the question is empty; send some text")
        context = self._engine.limits.context
        if len(request.messages) > context:
            raise BadRequest(
                f"{request.budget.prompt_field}: {len(request.messages)} messages do not fit the context of {context} "
                "tokens; send fewer"
            )

    async def _stream(
        self, request: ChatRequest, first: list[Change], changes: AsyncGenerator[list[Change], None], request_id: str
    ) -> AsyncGenerator[str, None]:
        """Parts of a stream. What fails after the first is said in the last."""
        replies, seen, status = request.replies, [*first], CLIENT_LEFT
        async with contextlib.aclosing(changes):
            try:
                yield replies.begin() + "".join(map(replies.change, first))
                async for some in changes:
                    seen += [change for change in some if change.result is not None]
                    if part := "".join(map(replies.change, some)):
                        yield part
                if part := replies.end(_results(seen)):
                    yield part
                status = 200
            except ChatError as error:
                log.info("stream ended early", request_id=request_id, status=error.status)
                status = error.status
                yield replies.failure(error.body())
            except Exception:
                log.exception("failed", request_id=request_id)
                status = ChatError.status
                yield replies.failure(_internal(request_id).body())
            finally:
                self._count(status)

    async def _answers(self, request: ChatRequest) -> AsyncGenerator[list[Change], None]:
        """The changes of all answers to one request, as they come."""
        deadline = self._deadline()
        with self._places(request.choices):
            prompt = await self._encode(request.messages)
            sampling = request.sampling(len(prompt), self._engine.limits, self._settings.max_new_tokens)
            answers = [
                self._answer(number, prompt, _for_choice(sampling, number), request.stop, deadline)
                for number in range(request.choices)
            ]
            changes = answers[0] if len(answers) == 1 else merged(answers)
            async with contextlib.aclosing(changes):
                async for some in changes:
                    yield some

    async def _encode(self, messages: list[Message]) -> list[int]:
        if sum(len(message.content) + _TURN for message in messages) <= _SHORT_PROMPT:
            return self._prompter.encode(messages)
        return await asyncio.to_thread(self._prompter.encode, messages)

    async def _answer(
        self, number: int, prompt: list[int], sampling: Sampling, stop: tuple[str, ...], deadline: float
    ) -> AsyncGenerator[list[Change], None]:
        writer = Writer(number, len(prompt), self._tokens, stop)
        steps = self._metrics.watched(
            len(prompt), self._answer_waits.until(deadline, self._engine.generate(prompt, sampling))
        )
        async with contextlib.aclosing(steps):
            async for made in steps:
                if changes := writer.take(made):
                    yield changes
                if writer.stopped:
                    break
        yield [writer.end()]

    @contextlib.contextmanager
    def _places(self, number: int) -> Iterator[None]:
        """Places among the answers in flight. Raises Unavailable or Busy."""
        if self._draining:
            raise Unavailable("the service is shutting down; send the request again to another instance")
        places = self._settings.max_running + self._settings.max_waiting
        if number > places:
            raise BadRequest(f"n: got {number}, but this service answers {places} at once; ask for fewer")
        if self._in_flight + number > places:
            raise Busy(f"all {places} places are taken; try again in a few seconds", retry_after=5)
        self._in_flight += number
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= number
            if not self._in_flight:
                self._idle.set()


def _bears(authorization: str, key: str) -> bool:
    """Whether a header, decoded as Latin-1, has the key, compared in constant time, after the scheme `Bearer` in any
    case (RFC 9110)."""
    scheme, _, given = authorization.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1", "replace"), key.encode())


def _for_choice(sampling: Sampling, number: int) -> Sampling:
    """Each of several answers draws with a seed of its own; the first with the one given."""
    return sampling if sampling.seed is None else replace(sampling, seed=(sampling.seed + number) % 2**63)


def _results(changes: list[Change]) -> list[Result]:
    """By number of the answer."""
    last = {change.choice: change.result for change in changes if change.result is not None}
    return [last[choice] for choice in sorted(last)]


def _internal(request_id: str) -> ChatError:
    return ChatError(f"internal error; please report it with request id {request_id}")


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
