"""One result written in the reply format of the seed contract, whole or as a stream of lines."""

import json
from dataclasses import dataclass
from typing import Any

from chatglm2.engines.base import Finish
from chatglm2.requests import ChatRequest


@dataclass(frozen=True)
class Result:
    """A finished answer."""

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int

    def details(self) -> dict[str, Any]:
        """The fields that come only when asked for."""
        total = self.prompt_tokens + self.completion_tokens
        usage = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }
        return {"finish_reason": self.finish, "usage": usage}


def whole(request: ChatRequest, result: Result) -> str:
    """The reply body: `outputs` and `history`, which now ends with this turn."""
    reply: dict[str, Any] = {"outputs": result.text, "history": _history(request, result.text)}
    if request.parameters.details:
        reply |= result.details()
    return _json(reply)


def change(text: str, delta: str) -> str:
    """One line of a stream: the answer so far and what is new in it."""
    return _json({"outputs": text, "delta": delta}) + "\n"


def last(request: ChatRequest, result: Result, delta: str) -> str:
    """The line that ends a stream."""
    return (
        _json({"outputs": result.text, "delta": delta, "history": _history(request, result.text)} | result.details())
        + "\n"
    )


def failure(body: dict[str, Any]) -> str:
    """The line that ends a stream which failed after it began."""
    return _json(body) + "\n"


def _history(request: ChatRequest, answer: str) -> list[list[str]]:
    return [*request.history, [request.question, answer]]


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
