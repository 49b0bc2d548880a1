"""The seed contract: a question with its history, answered with both.

Defaults are those of ChatGLM2's own chat call. `top_k` is 50 there too: transformers samples so unless told otherwise.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, FailFast, Field

from chatglm2.contracts.base import Budget, Change, ChatRequest, Result, is_sampled, to_json, usage
from chatglm2.contracts.body import Contract, Seed, StopStrings, Text, default, shown, validated
from chatglm2.engines.base import MOST_BEAMS, Sampling
from chatglm2.prompt import Message

DEFAULT_MAX_LENGTH = 2048
"""ChatGLM2's own chat call stops here when nothing else is asked for; prompt and answer together."""


def parse(fields: dict[str, Any]) -> ChatRequest:
    """The request in a body that has `inputs`. Raises BadRequest."""
    body = validated(SeedBody, fields, parts={"parameters": Parameters}, private=frozenset({"inputs", "history"}))
    given = body.parameters
    turns = [
        turn for question, answer in body.history for turn in (Message("user", question), Message("assistant", answer))
    ]
    return ChatRequest(
        [*turns, Message("user", body.inputs)],
        given,
        Budget("inputs", "parameters.max_new_tokens", given.max_new_tokens, given.max_length, DEFAULT_MAX_LENGTH),
        SeedReplies(body.inputs, body.history, given.details),
        stream=given.stream,
        stop=tuple(given.stop),
    )


def _early_stopping(value: Any) -> Any:
    if value is True or value is False or value == "never":
        return value
    raise ValueError(f'should be true, false or "never", got {shown(value)}')


class Parameters(Contract):
    """`parameters` of the seed contract."""

    max_length: int | None = Field(None, ge=1)
    """Prompt and answer together, in tokens."""
    max_new_tokens: int | None = Field(None, ge=1)
    """The answer alone, in tokens; wins over `max_length`."""
    do_sample: Annotated[bool, default(True)] = True
    temperature: Annotated[float, default(0.95), Field(ge=0, le=2)] = 0.95
    top_p: Annotated[float, default(0.7), Field(ge=0, le=1)] = 0.7
    top_k: Annotated[int, default(50), Field(ge=0, le=1_000_000)] = 50
    repetition_penalty: Annotated[float, default(1.0), Field(ge=0.01, le=100)] = 1.0
    seed: Seed | None = None
    num_beams: Annotated[int, default(1), Field(ge=1, le=MOST_BEAMS)] = 1
    length_penalty: Annotated[float, default(1.0), Field(ge=-10, le=10)] = 1.0
    """Beam search divides by the length to this power, in float32: 4096 ** 10 is a number there."""
    early_stopping: Annotated[Any, default(False), AfterValidator(_early_stopping)] = False
    remove_invalid_values: bool | None = None
    """Accepted, without effect: logits that are not finite always end in an error, never in a wrong answer."""
    stop: StopStrings = Field(default_factory=list)
    stream: Annotated[bool, default(False)] = False
    details: Annotated[bool, default(False)] = False
    """Whether the reply also has `usage` and `finish_reason`."""
    logits_processor: None = None

    def sampling(self, max_new_tokens: int) -> Sampling:
        """What an engine is asked for."""
        sampled = self.do_sample and is_sampled(self.temperature, self.top_p)
        return Sampling(
            max_new_tokens,
            do_sample=sampled,
            temperature=self.temperature if sampled else 1.0,
            top_k=self.top_k if sampled else 0,
            top_p=self.top_p if sampled else 1.0,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            num_beams=self.num_beams,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
        )


Turn = Annotated[list[Text], Field(min_length=2, max_length=2)]


class SeedBody(Contract):
    """The body of the seed contract."""

    inputs: Text
    parameters: Annotated[Parameters, default(Parameters())] = Parameters()
    history: Annotated[list[Turn], FailFast(), default([])] = Field(default_factory=list)


@dataclass(frozen=True)
class SeedReplies:
    """Replies with the answer and the history it belongs to; streams are newline-delimited JSON."""

    question: str
    history: list[list[str]]
    details: bool

    stream_type = "application/x-ndjson"

    def whole(self, results: list[Result]) -> str:
        """`outputs` and `history`, which now ends with this turn."""
        reply = self._finished(results[0])
        return to_json(reply | _details(results[0]) if self.details else reply)

    def begin(self) -> str:
        """Nothing: the first line is the first change."""
        return ""

    def change(self, change: Change) -> str:
        """One line: the answer so far and what is new in it; the last one has everything."""
        if change.result is None:
            return to_json({"outputs": change.text, "delta": change.delta}) + "\n"
        last = {"delta": change.delta} | self._finished(change.result) | _details(change.result)
        return to_json(last) + "\n"

    def end(self, results: list[Result]) -> str:  # noqa: ARG002
        """Nothing: the last change said it."""
        return ""

    def failure(self, body: dict[str, object]) -> str:
        """The error as a line."""
        return to_json(body) + "\n"

    def _finished(self, result: Result) -> dict[str, Any]:
        return {"outputs": result.text, "history": [*self.history, [self.question, result.text]]}


def _details(result: Result) -> dict[str, Any]:
    return {"finish_reason": result.finish, "usage": usage([result])}
