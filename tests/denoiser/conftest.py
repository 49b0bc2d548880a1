import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import settings

from bench.ports import free_port
from denoiser.model.checkpoint import BUNDLED_CHECKPOINT, load
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import Embeddings, MiniLM, find_model
from tests.servers import Server, running

settings.register_profile("denoiser", deadline=None, max_examples=50)
settings.load_profile("denoiser")

SENTENCES = Path(__file__).with_name("sentences.txt")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the service that the tests share."""
    return tmp_path_factory.mktemp("denoiser") / "data"


@pytest.fixture(scope="session")
def server(data: Path) -> Iterator[Server]:
    """The real service in a process of its own, without a key. Who switches its model switches back."""
    port = free_port()
    env = {
        "DENOISER_DATA": str(data),
        "TRAIN_STEPS": "100",
        "QUEUE_SIZE": "64",
        "MAX_BODY_BYTES": "2000000",
        "MAX_UPLOAD_BYTES": "6000000",
        "MAX_ROWS": "200",
        "MAX_TEXTS": "512",
    }
    command = [sys.executable, "-m", "denoiser", "serve", "--port", str(port)]
    with running(command, data.parent / "log", port, env) as server:
        yield server


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    """A client of the shared service."""
    with httpx.Client(base_url=server.url, timeout=240) as client:
        yield client


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
