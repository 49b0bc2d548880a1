"""Request bodies, checked field by field and turned into one `ChatRequest`.

Nothing is corrected or ignored silently: what cannot be used as it stands is a `BadRequest` that names the field, what
was given and what is allowed.
"""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from chatglm2.engines.base import Limits, Sampling
from chatglm2.errors import BadRequest
from chatglm2.prompt import Message

DEFAULT_MAX_LENGTH = 2048
"""ChatGLM2's own chat call stops here when nothing else is asked for; prompt and answer together."""

MIN_TEMPERATURE = 1e-4
"""Below this the highest logit wins in any case, and dividing by it could overflow."""


@dataclass(frozen=True)
class ChatRequest:
    """One request, ready for a prompt."""

    messages: list[Message]
    history: list[list[str]]
    parameters: "Parameters"

    @property
    def question(self) -> str:
        """What the answer answers."""
        return self.messages[-1].content

    def sampling(self, prompt_tokens: int, limits: Limits, most_new_tokens: int) -> Sampling:
        """How to answer a prompt of that many tokens. Raises BadRequest where prompt and answer cannot fit."""
        given = self.parameters
        greedy = Sampling(
            max_new_tokens=self._new_tokens(prompt_tokens, limits, most_new_tokens),
            repetition_penalty=given.repetition_penalty,
            seed=given.seed,
            num_beams=given.num_beams,
            length_penalty=given.length_penalty,
            early_stopping=given.early_stopping,
        )
        if not given.do_sample or given.temperature < MIN_TEMPERATURE:
            return greedy
        return replace(greedy, do_sample=True, temperature=given.temperature, top_k=given.top_k, top_p=given.top_p)

    def _new_tokens(self, prompt_tokens: int, limits: Limits, most: int) -> int:
        given, room = self.parameters, limits.context - prompt_tokens
        if room < 1:
            raise BadRequest(
                f"inputs: prompt and history have {prompt_tokens} tokens, which leaves no room for an answer in the "
                f"context of {limits.context}; shorten them"
            )
        if given.max_new_tokens is not None:
            if given.max_new_tokens > min(room, most):
                raise BadRequest(
                    f"parameters.max_new_tokens: got {given.max_new_tokens}, at most {min(room, most)} are possible: "
                    f"the prompt has {prompt_tokens} tokens, the context {limits.context}, and the service allows "
                    f"{most} new ones"
                )
            return given.max_new_tokens
        if given.max_length is not None and given.max_length > limits.context:
            raise BadRequest(
                f"parameters.max_length: got {given.max_length}, more than the context of {limits.context} tokens"
            )
        max_length = given.max_length or min(DEFAULT_MAX_LENGTH, limits.context)
        if max_length <= prompt_tokens:
            raise BadRequest(
                f"parameters.max_length: {max_length} tokens for prompt and answer together, but the prompt alone has "
                f"{prompt_tokens}; raise it (up to {limits.context}) or set max_new_tokens"
            )
        return min(max_length - prompt_tokens, most)


def parse(body: bytes) -> ChatRequest:
    """A request of the seed contract. Raises BadRequest."""
    fields = _json_object(body)
    if "inputs" not in fields:
        raise BadRequest('inputs: missing; send {"inputs": "<question>", "parameters": {...}, "history": [...]}')
    try:
        seed = SeedBody.model_validate(fields)
    except ValidationError as error:
        raise BadRequest(_explain(error.errors(include_url=False)[0])) from None
    turns = [
        turn for question, answer in seed.history for turn in (Message("user", question), Message("assistant", answer))
    ]
    return ChatRequest([*turns, Message("user", seed.inputs)], seed.history, seed.parameters)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8 (byte {error.start}); send JSON encoded as UTF-8") from None
    except json.JSONDecodeError as error:
        if not body.strip():
            raise BadRequest("the body is empty; send a JSON object") from None
        raise BadRequest(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except (ValueError, RecursionError):
        raise BadRequest("the body is not usable JSON: a number is too long or the nesting too deep") from None
    if not isinstance(fields, dict):
        raise BadRequest(f"the body is {_shown(fields)}; send a JSON object")
    return fields


def _refuse_constant(name: str) -> None:
    raise BadRequest(f"the body holds {name}, which is not JSON; send finite numbers")


def _or(default: Any) -> BeforeValidator:
    """`null` means the same as leaving the field out."""
    return BeforeValidator(lambda value: default if value is None else value)


def _encodable(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"character {error.start} is half of a surrogate pair; send whole characters") from None
    return text


def _early_stopping(value: Any) -> Any:
    if value not in (True, False, "never") or (isinstance(value, int | float) and not isinstance(value, bool)):
        raise ValueError('should be true, false or "never"')
    return value


def _as_list(value: Any) -> Any:
    return [] if value is None else [value] if isinstance(value, str) else value


Text = Annotated[str, AfterValidator(_encodable)]
Turn = Annotated[list[Text], Field(min_length=2, max_length=2)]
StopString = Annotated[Text, Field(min_length=1, max_length=256)]


class Contract(BaseModel):
    """A body or part of one: exact types, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Parameters(Contract):
    """`parameters` of the seed contract, with the defaults of ChatGLM2's own chat call.

    `top_k` is 50 there too: transformers samples so unless told otherwise.
    """

    max_length: int | None = Field(None, ge=1)
    """Prompt and answer together, in tokens."""
    max_new_tokens: int | None = Field(None, ge=1)
    """The answer alone, in tokens; wins over `max_length`."""
    do_sample: Annotated[bool, _or(True)] = True
    temperature: Annotated[float, _or(0.95), Field(ge=0, le=100)] = 0.95
    top_p: Annotated[float, _or(0.7), Field(ge=0, le=1)] = 0.7
    top_k: Annotated[int, _or(50), Field(ge=0, le=1_000_000)] = 50
    repetition_penalty: Annotated[float, _or(1.0), Field(ge=0.01, le=100)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    num_beams: Annotated[int, _or(1), Field(ge=1, le=8)] = 1
    length_penalty: Annotated[float, _or(1.0), Field(ge=-100, le=100)] = 1.0
    early_stopping: Annotated[Any, _or(False), AfterValidator(_early_stopping)] = False
    remove_invalid_values: bool | None = None
    """Accepted, without effect: logits that are not finite always end in an error, never in a wrong answer."""
    stop: Annotated[list[StopString], Field(max_length=16), BeforeValidator(_as_list)] = []
    stream: Annotated[bool, _or(False)] = False
    details: Annotated[bool, _or(False)] = False
    """Whether the reply also has `usage` and `finish_reason`."""
    logits_processor: None = None


class SeedBody(Contract):
    """The body of the seed contract."""

    inputs: Text
    parameters: Annotated[Parameters, _or(Parameters())] = Parameters()
    history: Annotated[list[Turn], _or([])] = []


def _explain(error: ErrorDetails) -> str:
    """One line for pydantic's first complaint."""
    *parents, last = error["loc"]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
    if error["type"] == "extra_forbidden":
        known = (Parameters if parents else SeedBody).model_fields
        return f"{_unknown(str(last), parents)}; {_nearest(str(last), known)}"
    if error["type"] == "none_required":
        return f"{place}: only null is possible, got {_shown(error['input'])}"
    message = error["msg"].removeprefix("Value error, ")
    private = error["loc"][0] != "parameters"
    given = _kind(error["input"]) if private else _shown(error["input"])
    return f"{place}: {message[0].lower()}{message[1:]}, got {given}"


def _unknown(name: str, parents: list[Any]) -> str:
    shown = json.dumps(name[:40])
    return f"{'.'.join(map(str, parents))}: unknown parameter {shown}" if parents else f"unknown field {shown}"


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"did you mean {close[0]}? Known are {', '.join(known)}"


def _shown(value: Any) -> str:
    """A value as JSON, cut short; long and nested ones by their kind alone."""
    if isinstance(value, list | dict):
        return _kind(value)
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names[type(value)]
