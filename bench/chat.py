"""How much sooner requests finish at once than one after another, against any address of the chat service."""

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Run:
    """One way of sending the same requests."""

    name: str
    seconds: float
    tokens: int


def concurrency(
    url: Annotated[str, typer.Argument(help="Address of the service.")] = "http://localhost:8080",
    requests: Annotated[int, typer.Option(help="How many requests.")] = 16,
    new_tokens: Annotated[int, typer.Option(help="New tokens of each.")] = 48,
    rounds: Annotated[int, typer.Option(help="Rounds; the two ways take turns, the quickest of each counts.")] = 3,
) -> None:
    """Send the same requests one after another and at once, in turns, and print both times and their ratio."""
    one_by_one, together = asyncio.run(_measure(url, requests, new_tokens, rounds))
    table = Table("requests", "seconds", "tokens/s", title=f"{requests} requests of {new_tokens} new tokens at {url}")
    for run in (one_by_one, together):
        table.add_row(run.name, f"{run.seconds:.2f}", f"{run.tokens / run.seconds:.1f}")
    console = Console()
    console.print(table)
    console.print(f"at once: {one_by_one.seconds / together.seconds:.1f} times sooner")


async def _measure(url: str, requests: int, new_tokens: int, rounds: int) -> tuple[Run, Run]:
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        await _ask(client, "Warm up.", 4)
        runs = []
        for turn in range(rounds):
            questions = [f"Round {turn}: what is the number {n} good for?" for n in range(requests)]
            runs.append(
                (await _one_by_one(client, questions, new_tokens), await _at_once(client, questions, new_tokens))
            )
    first, second = zip(*runs, strict=True)
    return min(first, key=lambda run: run.seconds), min(second, key=lambda run: run.seconds)


async def _one_by_one(client: httpx.AsyncClient, questions: list[str], new_tokens: int) -> Run:
    started = time.perf_counter()
    tokens = sum([await _ask(client, question, new_tokens) for question in questions])
    return Run("one after another", time.perf_counter() - started, tokens)


async def _at_once(client: httpx.AsyncClient, questions: list[str], new_tokens: int) -> Run:
    started = time.perf_counter()
    tokens = sum(await asyncio.gather(*(_ask(client, question, new_tokens) for question in questions)))
    return Run("at once", time.perf_counter() - started, tokens)


async def _ask(client: httpx.AsyncClient, question: str, new_tokens: int) -> int:
    """Number of new tokens in the answer."""
    parameters = {"max_new_tokens": new_tokens, "do_sample": False, "details": True}
    response = await client.post("/invocations", json={"inputs": question, "parameters": parameters})
    response.raise_for_status()
    return int(response.json()["usage"]["completion_tokens"])
