"""What both contracts have in common: the request that they become, and what their replies are written from."""

import json
from dataclasses import dataclass
from typing import Any, Protocol

from chatglm2.engines.base import Finish, Limits, Sampling
from chatglm2.errors import BadRequest
from chatglm2.prompt import Message

_MIN_TEMPERATURE = 1e-4
_LINE_ENDS = "\x85\u2028\u2029"  # JSON allows them in a string; str.splitlines ends lines there


def is_sampled(temperature: float, top_p: float) -> bool:
    """Whether more than one token can be drawn. Next to temperature 0 the highest logit wins in any case, and dividing
    by it could overflow; `top_p` 0 leaves the most probable token."""
    return temperature >= _MIN_TEMPERATURE and top_p > 0


@dataclass(frozen=True)
class ScoredToken:
    """A token of an answer as its UTF-8 bytes, with natural logarithms of probabilities."""

    piece: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]
    """The most probable tokens at this place, best first."""


@dataclass(frozen=True)
class Result:
    """A finished answer. `scored` is empty unless log-probabilities were asked for."""

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    scored: tuple[ScoredToken, ...] = ()


@dataclass(frozen=True)
class Change:
    """A visible change of the answer number `choice`; its last one has the result."""

    choice: int
    delta: str
    text: str
    scored: tuple[ScoredToken, ...] = ()
    """The tokens since the change before."""
    result: Result | None = None


class Replies(Protocol):
    """Writes what came of one request."""

    stream_type: str
    """Media type of a stream."""

    def whole(self, results: list[Result]) -> str:
        """The body of a reply that is no stream; one result for each choice, in order."""

    def begin(self) -> str:
        """What a stream starts with."""

    def change(self, change: Change) -> str:
        """What a stream says of a change."""

    def end(self, results: list[Result]) -> str:
        """What a stream ends with, when all its answers are there."""

    def failure(self, body: dict[str, object]) -> str:
        """What a stream ends with when it failed after it began."""


@dataclass(frozen=True)
class Budget:
    """How long an answer may be, in tokens, and the fields of the request that say so."""

    prompt_field: str
    new_tokens_field: str
    max_new_tokens: int | None
    """The answer alone; wins over `max_length`."""
    max_length: int | None = None
    """Prompt and answer together."""
    default_length: int | None = None
    """The same, cut down to the context, where the request says nothing; None means all that fits."""

    def new_tokens(self, prompt_tokens: int, limits: Limits, most: int) -> int:
        """The most new tokens for a prompt of that many. Raises BadRequest where prompt and answer cannot fit."""
        room = limits.context - prompt_tokens
        if room < 1:
            raise BadRequest(
                f"{self.prompt_field}: prompt and history have {prompt_tokens} tokens, which leaves no room for an "
                f"answer in the context of {limits.context}; shorten them"
            )
        if self.max_new_tokens is None:
            return min(self._length(limits, prompt_tokens) - prompt_tokens, most)
        if self.max_new_tokens > min(room, most):
            raise BadRequest(
                f"{self.new_tokens_field}: got {self.max_new_tokens}, at most {min(room, most)} are possible: the "
                f"prompt has {prompt_tokens} tokens, the context {limits.context}, and the service allows {most} new "
                "ones"
            )
        return self.max_new_tokens

    def _length(self, limits: Limits, prompt_tokens: int) -> int:
        if self.max_length is not None and self.max_length > limits.context:
            raise BadRequest(
                f"parameters.max_length: got {self.max_length}, more than the context of {limits.context} tokens"
            )
        length = self.max_length or min(self.default_length or limits.context, limits.context)
        if length <= prompt_tokens:
            raise BadRequest(
                f"parameters.max_length: {length} tokens for prompt and answer together, but the prompt alone has "
                f"{prompt_tokens}; raise it (up to {limits.context}) or set max_new_tokens"
            )
        return length


class SamplingFields(Protocol):
    """The part of a request that says how to choose tokens."""

    def sampling(self, max_new_tokens: int) -> Sampling:
        """What an engine is asked for."""


@dataclass(frozen=True)
class ChatRequest:
    """One request, ready for a prompt."""

    messages: list[Message]
    fields: SamplingFields
    budget: Budget
    replies: Replies
    stream: bool
    stop: tuple[str, ...] = ()
    choices: int = 1
    """How many answers."""
    model: str | None = None
    """The model asked for; None is whatever is served."""

    @property
    def question(self) -> str:
        """What the answer answers."""
        return self.messages[-1].content

    def sampling(self, prompt_tokens: int, limits: Limits, most_new_tokens: int) -> Sampling:
        """How to answer a prompt of that many tokens. Raises BadRequest for what `limits` do not allow."""
        sampling = self.fields.sampling(self.budget.new_tokens(prompt_tokens, limits, most_new_tokens))
        if sampling.num_beams > limits.beams:
            raise BadRequest(
                f"parameters.num_beams: got {sampling.num_beams}, but the engine here searches {limits.beams}; send "
                f"{limits.beams}, or serve with CHAT_ENGINE=transformers"
            )
        return sampling


def usage(results: list[Result]) -> dict[str, int]:
    """Tokens of one prompt and of all answers to it."""
    prompt, completion = results[0].prompt_tokens, sum(result.completion_tokens for result in results)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def to_json(value: dict[str, Any]) -> str:
    """One line of JSON, with characters as they are but for those at which some clients end a line."""
    text = json.dumps(value, ensure_ascii=False)
    for character in _LINE_ENDS:
        if character in text:
            text = text.replace(character, f"\\u{ord(character):04x}")
    return text
