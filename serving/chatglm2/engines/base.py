"""The engine interface: token ids in, token ids out, one `Step` for each new token.

Steps come in lists: all that were made since the last were taken. While whoever reads them keeps up, a list has one;
when answers come faster than they can be written one by one, each is written less often, and not later.

Closing the iterator cancels the request and frees its memory. Limits are checked before an engine is asked.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol

Finish = Literal["stop", "length"]

MOST_BEAMS = 8
"""The most that a request may ask for; an engine may search fewer."""


@dataclass(frozen=True)
class Sampling:
    """How to choose new tokens. Names and order of application are those of transformers' generation."""

    max_new_tokens: int
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    """0 keeps all tokens."""
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    """Subtracted from the logit of every token that the answer has; as in OpenAI's API reference."""
    frequency_penalty: float = 0.0
    """The same, times how often the answer has it."""
    logprobs: int | None = None
    """How many of the most probable tokens to report with each new one; None reports no log-probabilities."""
    seed: int | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False


@dataclass(frozen=True)
class Logprobs:
    """Natural logarithms of probabilities, by the model itself: before penalties, temperature and the rest."""

    token: float
    """Of the new token."""
    top: tuple[tuple[int, float], ...]
    """The most probable tokens with theirs, best first."""


@dataclass(frozen=True)
class Step:
    """One new token; the last one of a request says why it is the last."""

    token: int
    finish: Finish | None = None
    logprobs: Logprobs | None = None


@dataclass(frozen=True)
class Limits:
    """What one request may be: `context` bounds prompt and new tokens together."""

    context: int
    beams: int
    """Of one search; 1 for an engine that searches no beams."""


class Engine(Protocol):
    """A loaded model that answers any number of requests at once."""

    limits: Limits

    def ready(self) -> bool:
        """Whether a request given now would be answered."""

    def generate(self, prompt: list[int], sampling: Sampling) -> AsyncGenerator[list[Step], None]:
        """New tokens after `prompt`, as they are made. No list is empty. Raises `ChatError` where the engine fails."""

    def cache_use(self) -> float:
        """Share of the key-value cache that is in use, 0 to 1."""

    async def close(self) -> None:
        """Stop; requests still running fail."""


def token_ids(value: int | list[int] | None) -> list[int]:
    """The end tokens that a generation configuration names in any of its ways."""
    return [] if value is None else [value] if isinstance(value, int) else list(value)
