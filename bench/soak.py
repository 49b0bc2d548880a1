"""Mixed load for minutes: good requests, bad ones, clients that leave early, and a worker that is killed now and then.

What a request may meet is counted; lost are good requests without their answer that no kill touched.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import psutil
import typer
from rich.console import Console

from bench.contenders import START_SECONDS, ContenderFailed, wait_healthy
from bench.ports import free_port
from bench.servers import key_header

WORKERS = ("EngineCore", "djl_python_engine")
"""Parts of command lines; the first that a process has is of the one that holds the model and is started again."""

CONTRACT = {200, 400, 404, 413, 429, 503, 504, 507}

BAD: tuple[tuple[str, int], ...] = (
    ("{", 400),
    ('{"inputs": 7}', 400),
    ('{"inputs": ""}', 400),
    ('{"inputs": "Hi", "parameters": {"temperatur": 1}}', 400),
    ('{"messages": []}', 400),
    ('{"inputs": "' + "x" * 3_000_000 + '"}', 413),
)

Kind = Literal["good", "bad", "leaves"]


@dataclass
class Tally:
    """What happened. Times are on the monotonic clock."""

    outcomes: Counter[str] = field(default_factory=Counter)
    kills: list[tuple[float, float]] = field(default_factory=list)
    """Each from the kill until a request was answered again."""
    failures: list[tuple[float, float, str]] = field(default_factory=list)
    """Good requests without their answer: when they began and ended, and what they met."""
    memory: list[float] = field(default_factory=list)
    """Of all processes of the service, in MiB, every ten seconds."""

    def lost(self) -> list[str]:
        """What the failures met that overlap no kill."""
        return [
            met
            for began, ended, met in self.failures
            if not any(began <= answered and killed <= ended for killed, answered in self.kills)
        ]


def soak(
    minutes: Annotated[float, typer.Option(help="How long.")] = 10,
    adapter: Annotated[Literal["djl", "serve"], typer.Option(help="djl, or serve for FastAPI.")] = "djl",
    clients: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 16,
    kills: Annotated[int, typer.Option(min=0, help="How often a worker is killed.")] = 2,
    log: Annotated[Path, typer.Option(help="Where the service writes.")] = Path("logs/soak.log"),
) -> None:
    """Start the chat service, load it, kill what holds its model, count replies. Exit status 1 if anything was lost."""
    port = free_port()
    url, command = f"http://127.0.0.1:{port}", [sys.executable, "-m", "chatglm2", adapter, "--port", str(port)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=os.environ) as process:
        try:
            wait_healthy(process, url, log)
            if kills:
                _holder_of_the_model(process.pid)  # refused now rather than after minutes of load
            tally = asyncio.run(_run(url, process.pid, minutes * 60, clients, kills))
        except ContenderFailed as error:
            print(f"bench: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        finally:
            process.terminate()
    _show(tally)
    raise typer.Exit(bool(tally.lost() or process.returncode))


async def _run(url: str, pid: int, seconds: float, clients: int, kills: int) -> Tally:
    tally = Tally()
    end = time.monotonic() + seconds
    async with httpx.AsyncClient(
        base_url=url,
        headers=key_header(),
        timeout=600,
        limits=httpx.Limits(max_connections=None),
        trust_env=False,
    ) as client:
        await asyncio.gather(
            *(_client(client, tally, random.Random(number), end) for number in range(clients)),  # noqa: S311
            _kill(url, pid, tally, [end - seconds * (kills - number) / (kills + 1) for number in range(kills)]),
            _watch(pid, tally, end),
        )
    return tally


async def _client(client: httpx.AsyncClient, tally: Tally, chance: random.Random, end: float) -> None:
    while time.monotonic() < end:
        kind: Kind = chance.choices(("good", "bad", "leaves"), (85, 5, 10))[0]
        began = time.monotonic()
        try:
            met = await _ask(client, kind, chance)
        except httpx.HTTPError as error:
            met = type(error).__name__
        tally.outcomes[f"{kind}: {met}"] += 1
        if kind == "good" and met not in {"200", "429"}:
            tally.failures.append((began, time.monotonic(), met))
        if met not in {"200", "400", "413", "left"}:
            await asyncio.sleep(0.5)


async def _ask(client: httpx.AsyncClient, kind: Kind, chance: random.Random) -> str:
    if kind == "bad":
        body, expected = chance.choice(BAD)
        reply = await client.post("/invocations", content=body)
        return _met(reply, expected)
    streamed = kind == "leaves" or chance.random() < 0.5
    body = json.dumps(_good(chance, streamed))
    async with client.stream("POST", "/invocations", content=body) as reply:
        last = ""
        async for line in reply.aiter_lines():
            last = line or last
            if kind == "leaves":
                return "left"
        return f"stream ended in {last[-80:]}" if '"code"' in last and reply.is_success else _met(reply, 200)


def _met(reply: httpx.Response, expected: int) -> str:
    if reply.status_code in {expected, *CONTRACT - {200}}:
        return str(reply.status_code)
    return f"{reply.status_code}, outside of the contract"


def _good(chance: random.Random, streamed: bool) -> dict[str, Any]:
    question, most = f"What is the number {chance.randrange(10**6)} good for?", chance.choice((4, 16, 48))
    if chance.random() < 0.5:
        return {"messages": [{"role": "user", "content": question}], "max_tokens": most, "stream": streamed}
    return {"inputs": question, "parameters": {"max_new_tokens": most, "stream": streamed}}


async def _kill(url: str, pid: int, tally: Tally, times: list[float]) -> None:
    for moment in times:
        await asyncio.sleep(max(0, moment - time.monotonic()))
        worker = _holder_of_the_model(pid)
        killed = time.monotonic()
        worker.send_signal(signal.SIGKILL)
        await _answering(url)
        tally.kills.append((killed, time.monotonic()))


async def _watch(pid: int, tally: Tally, end: float) -> None:
    while time.monotonic() < end:
        await asyncio.sleep(10)
        tally.memory.append(sum(map(_memory, _processes(pid))) / 2**20)


async def _answering(url: str) -> None:
    """Return when a request is answered; DJL Serving's `/ping` does not tell whether vLLM's process runs.

    Raises ContenderFailed when none is in `START_SECONDS`.
    """
    body, limit = {"inputs": "Hello", "parameters": {"max_new_tokens": 1}}, time.monotonic() + START_SECONDS
    async with httpx.AsyncClient(headers=key_header(), timeout=600, trust_env=False) as client:
        while time.monotonic() < limit:
            with contextlib.suppress(httpx.HTTPError):
                if (await client.post(f"{url}/invocations", json=body)).is_success:
                    return
            await asyncio.sleep(0.1)
    raise ContenderFailed(f"no request was answered within {START_SECONDS} s after a kill")


def _processes(pid: int) -> list[psutil.Process]:
    service = psutil.Process(pid)
    return [service, *service.children(recursive=True)]


def _holder_of_the_model(pid: int) -> psutil.Process:
    """Raises ContenderFailed where no process of the service is one of `WORKERS`."""
    commands = [(process, _command_line(process)) for process in _processes(pid)]
    for part in WORKERS:
        for process, command in commands:
            if part in command:
                return process
    raise ContenderFailed(
        "the model is in a process that nothing starts again, so none can be killed; give --kills 0 or --adapter djl"
    )


def _memory(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def _command_line(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def _show(tally: Tally) -> None:
    console = Console()
    for outcome, count in sorted(tally.outcomes.items()):
        console.print(f"{count:7}  {outcome}")
    for killed, answered in tally.kills:
        console.print(f"worker killed; answered again after {answered - killed:.1f} s")
    console.print(
        "memory, MiB: " + " ".join(f"{used:.0f}" for used in tally.memory[:: max(1, len(tally.memory) // 20)])
    )
    console.print(f"good requests lost that no kill touched: {len(tally.lost())} {tally.lost()[:5]}")
