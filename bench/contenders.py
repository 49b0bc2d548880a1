"""What is measured side by side: the chat service on each engine and adapter, engines without a service, and peers.

Each is started once and then takes its turns; all hold the same weights in the same type on the same machine.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import httpx

from bench.load import Answer, Level, over_http
from bench.ports import free_port
from chatglm2.settings import DEFAULT_BATCH_TOKENS, DEFAULT_CACHE_TOKENS

START_SECONDS = 900
_SAME_CACHE = f"--cb-num-blocks {DEFAULT_CACHE_TOKENS // 32} --cb-max-batch-tokens {DEFAULT_BATCH_TOKENS}"
"""What the chat service takes off a GPU; left alone, `transformers serve` takes most of the memory."""


class ContenderFailed(Exception):  # noqa: N818 - said in one line
    """A contender did not start, did not answer, or ended."""


def _last_words(log: Path) -> ContenderFailed:
    lines = log.read_text(errors="replace").strip().splitlines()
    return ContenderFailed(f"{log.stem}: {lines[-1] if lines else 'ended'} (all of it in {log})")


class Contender(Protocol):
    """Something that answers prompts."""

    def measure(self, prompts: list[str], concurrent: int, new_tokens: int) -> Level:
        """Answer `prompts`, `concurrent` at once, with up to `new_tokens` each."""


@dataclass(frozen=True)
class HttpServer:
    """An OpenAI-compatible server that runs already."""

    url: str
    model: str

    def measure(self, prompts: list[str], concurrent: int, new_tokens: int) -> Level:
        """Over HTTP, streamed. Raises ContenderFailed."""
        try:
            return asyncio.run(over_http(self.url, self.model, prompts, concurrent, new_tokens))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ContenderFailed(f"{self.url} ({self.model}): {str(error) or type(error).__name__}") from error


@dataclass(frozen=True)
class DirectProcess:
    """`bench.direct` in a process of its own."""

    process: "subprocess.Popen[str]"
    log: Path

    def measure(self, prompts: list[str], concurrent: int, new_tokens: int) -> Level:
        """Over pipes: one job, one line of results. Raises ContenderFailed."""
        assert self.process.stdin is not None  # noqa: S101
        job = {"prompts": prompts, "concurrent": concurrent, "new_tokens": new_tokens}
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise _last_words(self.log) from None
        found = json.loads(_line(self.process, "{", self.log))
        return Level(found["concurrent"], found["seconds"], [Answer(**answer) for answer in found["answers"]])


@dataclass(frozen=True)
class Recipe:
    """How a contender is started: arguments of Python, in which `{port}`, `{model}`, `{dtype}` and vLLM's `{eager}`,
    `{gpu_memory}` and `{executor}` are filled in."""

    command: str
    env: Mapping[str, str] = field(default_factory=dict)
    vllm: bool = False
    """Whether it needs the environment that has vLLM."""
    direct: bool = False
    """Whether it is a `bench.direct`."""


EXECUTOR, STEP = "bench.pace.PacedExecutor", "BENCH_STEP_MS"
"""What stands for the model in vLLM's process, and the variable from which it takes its pace."""
_FASTAPI = "-m chatglm2 serve --port {port}"
_DJL = "-m chatglm2 djl --port {port}"
_TRANSFORMERS, _VLLM = {"CHAT_ENGINE": "transformers"}, {"CHAT_ENGINE": "vllm"}
RECIPES = {
    "transformers engine in FastAPI": Recipe(_FASTAPI, _TRANSFORMERS),
    "transformers engine in DJL Serving": Recipe(_DJL, _TRANSFORMERS),
    "transformers engine directly": Recipe("-m bench.direct engine", _TRANSFORMERS, direct=True),
    "vLLM engine in FastAPI": Recipe(_FASTAPI, _VLLM, vllm=True),
    "vLLM engine in DJL Serving": Recipe(_DJL, _VLLM, vllm=True),
    "vLLM engine directly": Recipe("-m bench.direct engine", _VLLM, vllm=True, direct=True),
    "vLLM's own server": Recipe(
        "-m vllm.entrypoints.openai.api_server --model {model} --dtype {dtype} --host 127.0.0.1 --port {port} "
        "--max-num-seqs 64 --block-size 32 --kv-cache-memory-bytes 1000000000 --gpu-memory-utilization {gpu_memory} "
        "{eager} {executor}",
        {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"},
        vllm=True,
    ),
    "transformers serve": Recipe(
        "-m transformers.cli.transformers serve {model} --dtype {dtype} --host 127.0.0.1 --port {port} "
        "--continuous-batching --cb-block-size 32 " + _SAME_CACHE,
        vllm=True,
    ),
    "one generate at a time": Recipe("-m bench.direct generate", direct=True),
}
"""By the name that tables give them."""


@dataclass(frozen=True)
class Setup:
    """What all contenders share: a native checkpoint's folder, its type, vLLM compiled or not and with what share of
    the GPU's memory, where logs go, and milliseconds of each forward pass where vLLM's model only waits."""

    model: Path
    dtype: str
    eager: bool
    gpu_memory: float
    vllm_python: Path | None
    logs: Path
    step: float | None = None


@contextlib.contextmanager
def started(name: str, recipe: Recipe, setup: Setup) -> Iterator[Contender]:
    """Start the contender `name` and stop it in the end. Raises ContenderFailed."""
    port = free_port()
    python = str(setup.vllm_python) if recipe.vllm and setup.vllm_python else sys.executable
    eager = "--enforce-eager" if setup.eager else ""
    paced = {} if setup.step is None else {"CHAT_EXECUTOR": EXECUTOR, STEP: str(setup.step)}
    filled = recipe.command.format(
        port=port,
        model=setup.model,
        dtype=setup.dtype,
        eager=eager,
        gpu_memory=setup.gpu_memory,
        executor=f"--distributed-executor-backend {EXECUTOR}" if paced else "",
    )
    command = [python, *filled.split()]
    settings = {
        "HF_MODEL_ID": str(setup.model),
        "CHAT_DTYPE": setup.dtype,
        "CHAT_EAGER": str(setup.eager),
        "CHAT_CACHE_TOKENS": str(DEFAULT_CACHE_TOKENS),
        "CHAT_GPU_MEMORY": str(setup.gpu_memory),
    }
    env = os.environ | settings | paced | {"OMP_WAIT_POLICY": "PASSIVE"} | dict(recipe.env)
    pipe = subprocess.PIPE if recipe.direct else subprocess.DEVNULL
    place = setup.logs / f"{name}.log"
    with place.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe if recipe.direct else log, stderr=log, env=env, text=True
        )
        try:
            if recipe.direct:
                _line(process, "ready", place)
                yield DirectProcess(process, place)
            else:
                url = f"http://127.0.0.1:{port}"
                wait_healthy(process, url, place)
                yield HttpServer(url, str(setup.model) if "{model}" in recipe.command else "chatglm2")
        finally:
            _stop(process)


def _stop(process: "subprocess.Popen[str]") -> None:
    """A `bench.direct` ends with its input, after it has closed its engine."""
    if process.stdin is not None:
        process.stdin.close()
    else:
        process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _line(process: "subprocess.Popen[str]", start: str, log: Path) -> str:
    """The next line of output that begins with `start`; others are messages."""
    assert process.stdout is not None  # noqa: S101
    for line in process.stdout:
        if line.startswith(start):
            return line
    raise _last_words(log)


def wait_healthy(
    process: "subprocess.Popen[Any]", url: str, log: Path, routes: Sequence[str] = ("/ping", "/health")
) -> None:
    """Return when one of the routes at `url` gives 200. Raises ContenderFailed when the server's process ends, or after
    15 minutes."""
    limit = time.monotonic() + START_SECONDS
    while time.monotonic() < limit and process.poll() is None:
        for route in routes:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(url + route, timeout=5, trust_env=False).is_success:
                    return
        time.sleep(0.5)
    raise _last_words(log)
