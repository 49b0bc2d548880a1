"""What the chat service itself costs, where a GPU is fast: the service around an engine that computes nothing.

The engine gives every running answer a token each 5 milliseconds, which is what 6 billion parameters in fp16 take on an
H200 with 16 to 64 requests at once. What is lost between that engine asked directly and asked over HTTP is the
service's and the load generator's doing: `python -m bench.pace PORT` is the service.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from itertools import count
from typing import Any

from chatglm2.engines.base import Limits, Sampling, Step
from chatglm2.settings import Settings, read_settings
from chatglm2.startup import find_model, serve_with

STEP_SECONDS = 0.005
_FIRST, _TOKENS = 1000, 20_000  # ids of ordinary text in the embedded model's vocabulary


class PacedEngine:
    """No model: tokens by the clock, whatever was asked."""

    limits = Limits(context=8192, beams=1)

    def __init__(self) -> None:
        self._clock: asyncio.Task[None] | None = None
        self._running = set[asyncio.Queue[int]]()

    def ready(self) -> bool:
        """Always."""
        return True

    def cache_use(self) -> float:
        """None."""
        return 0.0

    async def close(self) -> None:
        """Stop the clock."""
        if self._clock is not None:
            self._clock.cancel()

    async def generate(self, prompt: list[int], sampling: Sampling) -> AsyncGenerator[list[Step], None]:  # noqa: ARG002
        """A token at each step of the clock; those that were not taken in time come together."""
        self._clock = self._clock or asyncio.create_task(self._tick())
        made, left = asyncio.Queue[int](), sampling.max_new_tokens
        self._running.add(made)
        try:
            while left:
                tokens = [await made.get()]
                while not made.empty():
                    tokens.append(made.get_nowait())
                tokens = tokens[:left]
                left -= len(tokens)
                steps = [Step(token) for token in tokens]
                yield steps if left else [*steps[:-1], Step(tokens[-1], "length")]
        finally:
            self._running.remove(made)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for step in count():
            due += STEP_SECONDS
            await asyncio.sleep(due - loop.time())
            for made in self._running:
                made.put_nowait(_FIRST + step * 7 % _TOKENS)


def load_paced(settings: Settings) -> tuple[PacedEngine, Any]:
    """The engine, and the tokenizer of the model that the settings name. Raises SetupError."""
    from transformers import AutoTokenizer  # noqa: PLC0415

    return PacedEngine(), AutoTokenizer.from_pretrained(find_model(settings), local_files_only=True)


def main() -> None:
    """Serve HTTP on the port of the command line."""
    import uvicorn  # noqa: PLC0415

    from chatglm2.app import create_app  # noqa: PLC0415
    from chatglm2.logs import configure  # noqa: PLC0415
    from chatglm2.protocol import Protocol  # noqa: PLC0415

    configure()
    settings = read_settings()
    app = create_app(serve_with(*load_paced(settings), settings), settings)
    uvicorn.run(app, port=int(sys.argv[1]), http=Protocol, ws="none", log_level="warning", server_header=False)


if __name__ == "__main__":
    main()
