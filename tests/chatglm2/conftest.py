"""The chat service behind each adapter. Tests that take `chat` run once for each."""

import os
from collections.abc import Iterator

import pytest

from tests import servers


@pytest.fixture(
    scope="session",
    params=["serve", pytest.param("djl", marks=pytest.mark.djl)],
    ids=["fastapi", "djl"],
)
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A chat service with the embedded model."""
    if request.param == "djl":
        require_djl()
    with servers.chat(request.param, tmp_path_factory.mktemp("chat") / "log") as server:
        yield server


def require_djl() -> None:
    """Skip where there is no DJL Serving to test with."""
    if "DJL_SERVING_HOME" not in os.environ:
        pytest.skip("DJL_SERVING_HOME is not set: name an unpacked DJL Serving release or its archive")
