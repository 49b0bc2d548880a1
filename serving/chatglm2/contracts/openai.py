"""OpenAI's chat contract, as its Python client sends and parses it (API reference, "Create chat completion").

What this service cannot do is refused by name, never ignored.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, FailFast, Field, model_validator

from chatglm2.contracts.base import Budget, ChatRequest, is_sampled
from chatglm2.contracts.body import Contract, Seed, StopStrings, Text, default, kind, shown, validated
from chatglm2.contracts.openai_replies import OpenAIReplies
from chatglm2.engines.base import Sampling
from chatglm2.errors import BadRequest
from chatglm2.prompt import Message, Role

MOST_CHOICES = 8
MOST_TOP_LOGPROBS = 20
UNSUPPORTED = frozenset(
    {"audio", "function_call", "functions", "logit_bias", "metadata", "modalities", "parallel_tool_calls"}
    | {"prediction", "prompt_cache_key", "prompt_cache_retention", "reasoning_effort", "safety_identifier"}
    | {"service_tier", "store", "tool_choice", "tools", "verbosity", "web_search_options"}
)
UNSUPPORTED_IN_MESSAGE = frozenset(
    {"annotations", "audio", "function_call", "name", "refusal", "tool_call_id", "tool_calls"}
)


def parse(fields: dict[str, Any], request_id: str) -> ChatRequest:
    """The request in a body that has `messages`. Raises BadRequest."""
    body = validated(
        ChatBody,
        _supported(fields),
        parts={"messages": MessageBody, "stream_options": StreamOptions, "response_format": ResponseFormat},
        private=frozenset({"messages", "user"}),
    )
    messages = [Message(message.role, message.content) for message in body.messages]
    _check_order(messages)
    return ChatRequest(
        messages,
        body,
        Budget("messages", body.new_tokens_field, body.new_tokens),
        OpenAIReplies(f"chatcmpl-{request_id}", body.model or "chatglm2", body.logprobs, body.include_usage, body.n),
        stream=body.stream,
        stop=tuple(body.stop),
        choices=body.n,
        model=body.model,
    )


def _supported(fields: dict[str, Any]) -> dict[str, Any]:
    fields = _without(UNSUPPORTED, fields)
    if isinstance(fields["messages"], list):
        fields["messages"] = [
            _without(UNSUPPORTED_IN_MESSAGE, message, f"messages[{place}].") if isinstance(message, dict) else message
            for place, message in enumerate(fields["messages"])
        ]
    return fields


def _without(unsupported: frozenset[str], fields: dict[str, Any], place: str = "") -> dict[str, Any]:
    """`fields` less those that are unsupported and null, which asks for nothing. Raises BadRequest for the others."""
    for name, value in fields.items():
        if name in unsupported and value is not None:
            raise BadRequest(f"{place}{name}: not supported here; leave it out")
    return {name: value for name, value in fields.items() if name not in unsupported}


def _check_order(messages: list[Message]) -> None:
    """ChatGLM2's prompt has rounds of a question and an answer, so nothing else can be written as one."""
    first = 1 if messages[0].role == "system" else 0
    for place, message in enumerate(messages[first:], start=first):
        wanted: Role = "assistant" if (place - first) % 2 else "user"
        if message.role != wanted:
            raise BadRequest(
                f"messages[{place}].role: got {message.role} where {wanted} must follow; send an optional system "
                "message, then user and assistant in turn (join messages of the same role)"
            )
    if messages[-1].role != "user":
        raise BadRequest(f"messages: the last is from {messages[-1].role}; end with a message from user")


def _role(value: Any) -> Any:
    if value not in ("system", "user", "assistant"):
        raise ValueError(f"should be system, user or assistant, got {shown(value)}")
    return value


def _text_of_parts(value: Any) -> Any:
    """Content may come in parts; those of text are joined by line breaks, others are refused."""
    if not isinstance(value, list):
        return value
    if not value:
        raise ValueError("is an empty list; send text")
    return "\n".join(_text_of_part(number, part) for number, part in enumerate(value))


def _text_of_part(number: int, part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        found = shown(part["type"]) if isinstance(part, dict) and "type" in part else kind(part)
        raise ValueError(f'part {number} is {found}; only {{"type": "text", "text": "..."}} is supported')
    if part.keys() != {"type", "text"} or not isinstance(part["text"], str):
        raise ValueError(f'part {number} should be {{"type": "text", "text": "..."}} and nothing else')
    return part["text"]


class MessageBody(Contract):
    """One message."""

    role: Annotated[Role, BeforeValidator(_role)]
    content: Annotated[Text, BeforeValidator(_text_of_parts)]


class StreamOptions(Contract):
    """What a stream should hold beside the answer."""

    include_usage: Annotated[bool, default(False)] = False


class ResponseFormat(Contract):
    """Text is what an answer is anyway."""

    type: Annotated[str, Field(pattern="^text$")]


class ChatBody(Contract):
    """The body of a chat completion, with the defaults of the API reference."""

    messages: Annotated[list[MessageBody], Field(min_length=1), FailFast()]
    model: Annotated[Text, Field(min_length=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The present name of `max_tokens`."""
    temperature: Annotated[float, default(1.0), Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, default(1.0), Field(ge=0, le=1)] = 1.0
    n: Annotated[int, default(1), Field(ge=1, le=MOST_CHOICES)] = 1
    stop: StopStrings = Field(default_factory=list)
    seed: Seed | None = None
    presence_penalty: Annotated[float, default(0.0), Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, default(0.0), Field(ge=-2, le=2)] = 0.0
    logprobs: Annotated[bool, default(False)] = False
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    stream: Annotated[bool, default(False)] = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    user: Text | None = None
    """The client's name for its own user; nothing depends on it."""

    @property
    def new_tokens(self) -> int | None:
        """Most tokens of an answer, where the request says so."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def new_tokens_field(self) -> str:
        """The field that says so."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, max_new_tokens: int) -> Sampling:
        """What an engine is asked for."""
        sampled = is_sampled(self.temperature, self.top_p)
        return Sampling(
            max_new_tokens,
            do_sample=sampled,
            temperature=self.temperature if sampled else 1.0,
            top_p=self.top_p if sampled else 1.0,
            seed=self.seed,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )

    @model_validator(mode="after")
    def _agrees(self) -> "ChatBody":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: needs logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only a stream has them; set stream: true or leave them out")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; send max_completion_tokens alone")
        return self
