"""Replies of OpenAI's chat contract (API reference, "The chat completion object" and "... chunk object")."""

import time
from dataclasses import dataclass, field
from typing import Any

from chatglm2.contracts.base import Change, Result, ScoredToken, to_json, usage


@dataclass(frozen=True)
class OpenAIReplies:
    """Chat completions, and streams of their chunks as server-sent events."""

    id: str
    model: str
    logprobs: bool
    include_usage: bool
    choices: int
    created: int = field(default_factory=lambda: int(time.time()))
    """Unix time in seconds."""

    stream_type = "text/event-stream"

    def whole(self, results: list[Result]) -> str:
        """A chat completion."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": result.text, "refusal": None},
                "logprobs": self._logprobs(result.scored),
                "finish_reason": result.finish,
            }
            for index, result in enumerate(results)
        ]
        return to_json(self._head("chat.completion") | {"choices": choices, "usage": usage(results)})

    def begin(self) -> str:
        """A chunk for each choice that says who speaks."""
        start = {"role": "assistant", "content": "", "refusal": None}
        return "".join(self._chunk(index, start) for index in range(self.choices))

    def change(self, change: Change) -> str:
        """A chunk with the new text, if there is any, and one that says why the answer ended."""
        events = ""
        if change.delta or change.scored:
            events += self._chunk(change.choice, {"content": change.delta}, change.scored)
        if change.result is not None:
            events += self._chunk(change.choice, {}, finish=change.result.finish)
        return events

    def end(self, results: list[Result]) -> str:
        """The number of tokens, if asked for, and the mark that ends a stream."""
        last = _event(self._head("chat.completion.chunk") | {"choices": [], "usage": usage(results)})
        return (last if self.include_usage else "") + "data: [DONE]\n\n"

    def failure(self, body: dict[str, object]) -> str:
        """The error as an event, which the client raises with its message."""
        return _event({"error": {"message": body["error"], "code": body["code"]}})

    def _chunk(
        self, index: int, delta: dict[str, Any], scored: tuple[ScoredToken, ...] = (), finish: str | None = None
    ) -> str:
        logprobs = self._logprobs(scored) if scored else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        chunk = self._head("chat.completion.chunk") | {"choices": [choice]}
        return _event(chunk | {"usage": None} if self.include_usage else chunk)

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _logprobs(self, scored: tuple[ScoredToken, ...]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        content = [
            _scored(token.piece, token.logprob) | {"top_logprobs": [_scored(*other) for other in token.top]}
            for token in scored
        ]
        return {"content": content, "refusal": None}


def _scored(piece: bytes, logprob: float) -> dict[str, Any]:
    return {"token": piece.decode(errors="replace"), "logprob": logprob, "bytes": list(piece)}


def _event(value: dict[str, Any]) -> str:
    return f"data: {to_json(value)}\n\n"


def list_of_models(name: str, context: int, created: int) -> dict[str, Any]:
    """The list of models, which is one of so many tokens of context (vLLM's `max_model_len`), served since `created`
    (Unix time)."""
    model = {"id": name, "object": "model", "created": created, "owned_by": "chat", "max_model_len": context}
    return {"object": "list", "data": [model]}
