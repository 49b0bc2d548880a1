"""OpenAI's chat contract, as its Python client sends and parses it (API reference, "Create chat completion").

What this service cannot do is refused by name, never ignored.
"""

from itertools import groupby
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
UNSUPPORTED = (  # what is wanted before how: a refusal names the first
    *("tools", "functions", "tool_choice", "function_call", "parallel_tool_calls", "audio", "modalities", "logit_bias"),
    *("metadata", "prediction", "prompt_cache_retention", "reasoning_effort", "service_tier", "store", "verbosity"),
    "web_search_options",
)
UNSUPPORTED_IN_MESSAGE = ("tool_calls", "tool_call_id", "function_call", "audio", "refusal", "annotations")
UNSUPPORTED_IN_STREAM = ("include_obfuscation",)
_AS_IT_IS: dict[str, tuple[Any, ...]] = {
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "include_obfuscation": (False,),
}
"""Values of unsupported fields that ask for what happens anyway; tools to choose from are refused before."""

_FOLLOWS: dict[Role | None, tuple[Role, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
}


def parse(fields: dict[str, Any], request_id: str) -> ChatRequest:
    """The request in a body that has `messages`. Raises BadRequest."""
    body = validated(
        ChatBody,
        _supported(fields),
        parts={"messages": MessageBody, "stream_options": StreamOptions, "response_format": ResponseFormat},
        private=frozenset({"messages", "user", "safety_identifier", "prompt_cache_key"}),
    )
    _check_names(body.messages)
    return ChatRequest(
        _in_turn(body.messages),
        body,
        Budget("messages", body.new_tokens_field, body.new_tokens),
        OpenAIReplies(f"chatcmpl-{request_id}", body.model or "chatglm2", body.logprobs, body.include_usage, body.n),
        stream=body.stream,
        stop=tuple(body.stop),
        choices=body.n,
        model=body.model,
    )


def _supported(fields: dict[str, Any]) -> dict[str, Any]:
    """`fields` less those that ask for nothing. Raises BadRequest for what is asked for and not supported."""
    _refuse(UNSUPPORTED, fields)
    if isinstance(options := fields.get("stream_options"), dict):
        _refuse(UNSUPPORTED_IN_STREAM, options, "stream_options.")
        fields["stream_options"] = {name: options[name] for name in options if name not in UNSUPPORTED_IN_STREAM}
    if isinstance(fields["messages"], list):
        fields["messages"] = [
            _supported_message(place, message) if isinstance(message, dict) else message
            for place, message in enumerate(fields["messages"])
        ]
    return {name: value for name, value in fields.items() if name not in UNSUPPORTED}


def _supported_message(place: int, message: dict[str, Any]) -> dict[str, Any]:
    """Clients send replies back with fields that hold nothing, some of them their own."""
    _refuse(UNSUPPORTED_IN_MESSAGE, message, f"messages[{place}].")
    return {name: value for name, value in message.items() if name in ("role", "content") or not _is_empty(value)}


def _refuse(unsupported: tuple[str, ...], fields: dict[str, Any], place: str = "") -> None:
    for name in unsupported:
        if name in fields and not _is_empty(fields[name]) and fields[name] not in _AS_IT_IS.get(name, ()):
            raise BadRequest(f"{place}{name}: not supported here; leave it out")


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


def _check_names(messages: "list[MessageBody]") -> None:
    """The prompt has no place for names; where each role has one, nothing is lost without them."""
    names: dict[Role, str | None] = {}
    for place, message in enumerate(messages):
        if names.setdefault(message.role, message.name) != message.name:
            raise BadRequest(
                f"messages[{place}].name: differs from that of an earlier message from {message.role}; the prompt has "
                "no place for names, so write them into content"
            )


def _in_turn(bodies: "list[MessageBody]") -> list[Message]:
    """ChatGLM2's prompt has rounds of a question and an answer, so messages of one role that follow each other become
    one, joined by empty lines, and nothing else can be written. Raises BadRequest."""
    messages: list[Message] = []
    place, last = 0, None
    for role, group in groupby(bodies, lambda body: body.role):
        if role not in _FOLLOWS[last]:
            raise BadRequest(
                f"messages[{place}].role: got {role} {f'after {last}' if last else 'first'}; send an optional system "
                "message, then user and assistant in turn"
            )
        contents = [body.content for body in group]
        messages.append(Message(role, "\n\n".join(contents)))
        place, last = place + len(contents), role
    if last != "user":
        found = f"the last is from {last}" if last else "is empty"
        raise BadRequest(f"messages: {found}; end with a message from user")
    return messages


def _role(value: Any) -> Any:
    if value == "developer":  # OpenAI's newer name
        return "system"
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
    text = part.get("text")
    more = [name for name, value in part.items() if name not in ("type", "text") and not _is_empty(value)]
    if more or not isinstance(text, str):
        raise ValueError(f'part {number} should be {{"type": "text", "text": "..."}} and nothing else')
    return text


class MessageBody(Contract):
    """One message."""

    role: Annotated[Role, BeforeValidator(_role)]
    content: Annotated[Text, BeforeValidator(_text_of_parts)]
    name: Text | None = None


class StreamOptions(Contract):
    """What a stream should hold beside the answer."""

    include_usage: Annotated[bool, default(False)] = False


def _text_only(value: Any) -> Any:
    if value != "text":
        raise ValueError(f"got {shown(value)}; only text is supported")
    return value


class ResponseFormat(Contract):
    """Text is what an answer is anyway."""

    type: Annotated[str, BeforeValidator(_text_only)]


class ChatBody(Contract):
    """The body of a chat completion, with the defaults of the API reference."""

    messages: Annotated[list[MessageBody], FailFast()]
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
    """The client's name for its own user; nothing depends on it, nor on the next two."""
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None

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
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: needs logprobs: true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only a stream has them; set stream: true or leave them out")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; send max_completion_tokens alone")
        return self
