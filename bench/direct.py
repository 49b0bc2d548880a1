"""An engine without a service around it, driven over standard input and output: `python -m bench.direct engine`.

Each line in is one job as JSON (`prompts`, `concurrent`, `new_tokens`), each line out its answers' times. `generate` in
place of `engine` is the plain way: one `model.generate` at a time, however many ask.
"""

import asyncio
import contextlib
import dataclasses
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from bench.load import drive
from chatglm2.device import choose_device
from chatglm2.engines.base import Engine, Sampling
from chatglm2.prompt import Message, Prompter
from chatglm2.settings import Settings, read_settings
from chatglm2.startup import find_model, freeze_heap, load_engine

Ask = Callable[[str, int], AsyncIterator[int]]


def engine_ask(engine: Engine, prompter: Prompter) -> Ask:
    """Asks the engine itself."""

    async def ask(prompt: str, new_tokens: int) -> AsyncIterator[int]:
        count = 0
        steps = engine.generate(prompter.encode([Message("user", prompt)]), Sampling(new_tokens))
        async with contextlib.aclosing(steps):
            async for made in steps:
                count += len(made)
                yield count

    return ask


def generate_ask(model: Any, prompter: Prompter) -> Ask:
    """Asks `model.generate`, one prompt at a time; all tokens of an answer come at its end."""
    import torch  # noqa: PLC0415

    one_at_a_time = asyncio.Lock()

    def generate(ids: list[int], new_tokens: int) -> int:
        prompt = torch.tensor([ids], device=model.device)
        with torch.inference_mode():
            made = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return int(made.shape[1] - len(ids))

    async def ask(prompt: str, new_tokens: int) -> AsyncIterator[int]:
        async with one_at_a_time:
            yield await asyncio.to_thread(generate, prompter.encode([Message("user", prompt)]), new_tokens)

    return ask


def _plain(settings: Settings) -> Ask:
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    path = find_model(settings)
    dtype = getattr(torch, "float32" if settings.dtype == "auto" else settings.dtype)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    return generate_ask(model.to(choose_device(settings.device)).eval(), Prompter(tokenizer))


async def serve(kind: str) -> None:
    """Answer jobs until standard input ends."""
    settings, engine = read_settings(), None
    if kind == "generate":
        ask = _plain(settings)
    else:
        engine, tokenizer = await asyncio.to_thread(load_engine, settings)
        ask = engine_ask(engine, Prompter(tokenizer))
    freeze_heap()
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        job = json.loads(line)
        level = await drive(lambda prompt: ask(prompt, job["new_tokens"]), job["prompts"], job["concurrent"])  # noqa: B023
        print(json.dumps(dataclasses.asdict(level)), flush=True)
    if engine is not None:
        await engine.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
