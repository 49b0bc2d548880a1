"""The chat service behind each adapter and engine. Tests that take `chat` run once for each."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from chatglm2.engines.base import Engine, Sampling, Step
from tests import servers

ADAPTERS = (
    "serve",
    pytest.param("djl", marks=pytest.mark.djl),
    pytest.param("vllm", marks=pytest.mark.vllm),
    pytest.param("gpu", marks=pytest.mark.gpu),
)
"""FastAPI, DJL Serving, FastAPI with the vLLM engine, and FastAPI on a GPU."""

ADAPTER_NAMES = ("fastapi", "djl", "vllm", "gpu")

DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
"""Where an engine's model is."""


@pytest.fixture(scope="session", params=ADAPTERS, ids=ADAPTER_NAMES)
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A chat service with the embedded model."""
    with start(request.param, tmp_path_factory.mktemp("chat") / "log") as server:
        yield server


def start(
    adapter: str, log: Path, env: Mapping[str, str] | None = None, *options: str
) -> AbstractContextManager[servers.Server]:
    """A chat service behind one of `ADAPTERS`; skips where what it needs is not here."""
    if adapter == "vllm":
        given = {"CHAT_ENGINE": "vllm", "CHAT_EAGER": "1"} | dict(env or {})
        return servers.chat("serve", log, given, *options, python=vllm_python())
    if adapter == "gpu":
        given = {"CHAT_ENGINE": "transformers", "CHAT_DEVICE": "cuda", "CHAT_DTYPE": "float32"} | dict(env or {})
        return servers.chat("serve", log, given, *options)
    if adapter == "djl":
        require_djl()
    return servers.chat(adapter, log, env, *options)


async def steps(engine: Engine, prompt: list[int], sampling: Sampling) -> list[Step]:
    """All steps of an answer."""
    return [step async for made in engine.generate(prompt, sampling) for step in made]


def require_djl() -> None:
    """Skip where there is no DJL Serving to test with."""
    if "DJL_SERVING_HOME" not in os.environ:
        pytest.skip("DJL_SERVING_HOME is not set: name an unpacked DJL Serving release or its archive")


def vllm_python() -> str:
    """Python of the environment that has vLLM; skips where there is none."""
    if "VLLM_PYTHON" not in os.environ:
        pytest.skip("VLLM_PYTHON is not set: name the Python of an environment with vLLM, as `make test-vllm` does")
    return os.environ["VLLM_PYTHON"]


@pytest.fixture
def beams(request: pytest.FixtureRequest) -> None:
    """Skip for the engine that searches no beams."""
    if "vllm" in request.node.callspec.params.values():
        pytest.skip("vLLM searches no beams; test_vllm.py has its refusal")
