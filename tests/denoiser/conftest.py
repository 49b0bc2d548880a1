import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import settings

from denoiser.checkpoint import load
from denoiser.denoise import Denoiser
from denoiser.encoder import Embeddings, MiniLM, find_model
from denoiser.settings import BUNDLED_CHECKPOINT
from tests.denoiser.servers import start, wait_until_healthy
from tests.servers import free_port

settings.register_profile("denoiser", deadline=None, max_examples=50)
settings.load_profile("denoiser")

SENTENCES = Path(__file__).with_name("sentences.txt")


@dataclass(frozen=True)
class Running:
    """The real service in a process of its own."""

    client: httpx.Client
    process: subprocess.Popen[str]


@pytest.fixture(scope="session")
def service() -> Iterator[Running]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    process = start("serve", "--port", str(port), QUEUE_SIZE="64", MAX_BODY_BYTES="2000000", MAX_ROWS="200")
    wait_until_healthy(address, process)
    with httpx.Client(base_url=address, timeout=60) as client:
        yield Running(client, process)
    process.terminate()
    process.communicate(timeout=60)


@pytest.fixture(scope="session")
def client(service: Running) -> httpx.Client:
    return service.client


@pytest.fixture(scope="session")
def encoder() -> MiniLM:
    return MiniLM(find_model())


@pytest.fixture(scope="session")
def denoiser() -> Denoiser:
    return Denoiser.from_checkpoint(*load(BUNDLED_CHECKPOINT))


@pytest.fixture(scope="session")
def clean(encoder: MiniLM) -> Embeddings:
    """Embeddings of everyday sentences that are in no package: complaints, questions, recipes, news, small talk."""
    return encoder.encode(SENTENCES.read_text().splitlines())


@pytest.fixture(scope="session")
def noise(clean: Embeddings) -> Embeddings:
    return np.random.default_rng(5).standard_normal(clean.shape, dtype=np.float32)
