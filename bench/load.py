"""Sends streamed requests to an OpenAI-compatible server, a fixed number at once, and times every token."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
import numpy as np

from bench.servers import key_header


@dataclass(frozen=True)
class Answer:
    """One answer: when its tokens came, in seconds after it was asked for."""

    first: float
    last: float
    tokens: int

    @property
    def between(self) -> float:
        """Mean seconds from one token to the next."""
        return (self.last - self.first) / max(self.tokens - 1, 1)


@dataclass(frozen=True)
class Level:
    """What one server did with so many requests at once."""

    concurrent: int
    seconds: float
    answers: list[Answer]

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all answers over the time of all."""
        return sum(answer.tokens for answer in self.answers) / self.seconds

    def first_token(self, percentile: float) -> float:
        """Seconds to the first token."""
        return float(np.percentile([answer.first for answer in self.answers], percentile))

    def per_token(self) -> float:
        """Median of the answers' seconds per token after the first."""
        return float(np.median([answer.between for answer in self.answers]))

    def figures(self) -> dict[str, float]:
        """All of it, for a table or a file."""
        return {
            "concurrent": self.concurrent,
            "requests": len(self.answers),
            "tokens_per_second": self.tokens_per_second,
            "first_token_p50": self.first_token(50),
            "first_token_p95": self.first_token(95),
            "per_token_p50": self.per_token(),
        }


async def drive(ask: Callable[[str], "AsyncIterator[int]"], prompts: list[str], concurrent: int) -> Level:
    """Ask all `prompts`, `concurrent` at once. `ask` yields the number of tokens so far with each that comes."""
    places, started = asyncio.Semaphore(concurrent), time.perf_counter()

    async def one(prompt: str) -> Answer:
        async with places:
            asked, first, tokens = time.perf_counter(), 0.0, 0
            async for tokens in ask(prompt):  # noqa: B007 - the last one counts
                first = first or time.perf_counter() - asked
            return Answer(first, time.perf_counter() - asked, tokens)

    answers = await asyncio.gather(*(one(prompt) for prompt in prompts))
    return Level(concurrent, time.perf_counter() - started, list(answers))


async def over_http(url: str, model: str, prompts: list[str], concurrent: int, new_tokens: int) -> Level:
    """The load over `POST /v1/chat/completions`, greedy. Raises aiohttp.ClientError.

    The client parses HTTP in C: one in Python takes more of a core for a token than the service does.
    """
    timeout, connector = aiohttp.ClientTimeout(1800), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        url, headers=key_header(), timeout=timeout, connector=connector, raise_for_status=True
    ) as client:

        async def ask(prompt: str) -> AsyncIterator[int]:
            body = {
                "model": model,
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": new_tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            seen = 0
            async with client.post("/v1/chat/completions", json=body) as response:
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        seen = _tokens(json.loads(line[6:]), seen)
                        if seen:
                            yield seen

        return await drive(ask, prompts, concurrent)


def _tokens(chunk: dict[str, object], seen: int) -> int:
    """Tokens so far: each chunk with text is one, until the server's own count comes."""
    usage = chunk.get("usage")
    if isinstance(usage, dict):
        return int(usage["completion_tokens"])
    choices = chunk.get("choices")
    if isinstance(choices, list) and choices and choices[0]["delta"].get("content"):
        return seen + 1
    return seen
