"""What the service counts, for Prometheus: in a registry of its own, served on a port of its own."""

import contextlib
import time
from collections.abc import AsyncGenerator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from chatglm2.engines.base import Step
from chatglm2.errors import SetupError

CLIENT_LEFT = 499
"""Counted for a request whose client did not wait for the end, as nginx has it."""

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counts of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("chat_requests", "Requests by HTTP status.", ["status"], registry=self.registry)
        self.waiting = Gauge("chat_waiting", "Answers that have no token yet.", registry=self.registry)
        self.running = Gauge("chat_running", "Answers that have tokens, and get more.", registry=self.registry)
        self.first_token = self._seconds("chat_first_token_seconds", "From a request to its first token.")
        self.next_token = self._seconds("chat_next_token_seconds", "From one token of an answer to the next.")
        self.prompt_tokens = Counter("chat_prompt_tokens", "Tokens of prompts.", registry=self.registry)
        self.new_tokens = Counter("chat_new_tokens", "Tokens of answers.", registry=self.registry)
        self.cache_use = Gauge("chat_cache_use", "Share of the key-value cache in use.", registry=self.registry)

    def serve(self, host: str, port: int) -> None:
        """Serve `GET /metrics` in a thread, until the process ends. Raises SetupError."""
        try:
            start_http_server(port, host, self.registry)
        except OSError as error:
            raise SetupError(
                f"cannot listen on {host}:{port} for metrics: {error.strerror}; choose another CHAT_METRICS_PORT"
            ) from None

    async def watched(
        self, prompt_tokens: int, steps: AsyncGenerator[list[Step], None]
    ) -> AsyncGenerator[list[Step], None]:
        """`steps` of one answer as they come, counted and timed; those that come together share the time."""
        place, last = self.waiting, time.monotonic()
        place.inc()
        self.prompt_tokens.inc(prompt_tokens)
        try:
            async with contextlib.aclosing(steps):
                async for made in steps:
                    now, following = time.monotonic(), len(made)
                    if place is self.waiting:
                        self.first_token.observe(now - last)
                        place.dec()
                        place = self.running
                        place.inc()
                        following -= 1
                    for _ in range(following):
                        self.next_token.observe((now - last) / len(made))
                    last = now
                    self.new_tokens.inc(len(made))
                    yield made
        finally:
            place.dec()

    def _seconds(self, name: str, what: str) -> Histogram:
        return Histogram(name, what, buckets=SECONDS, registry=self.registry)
