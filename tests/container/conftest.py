"""One daemon and one image for the whole suite; what was measured is printed at its end."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.models.networks import Network

from bench.ports import free_port
from tests.container import daemon
from tests.container.compose import Project
from tests.container.daemon import IMAGE, REPOSITORY, Build, MissingError

FIGURES: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            item.add_marker("container")
            item.add_marker(pytest.mark.timeout(900, func_only=True))  # an image takes as long to build as it takes


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.section("figures")
        terminalreporter.write("\n".join(FIGURES) + "\n")


@pytest.fixture(scope="session")
def figures() -> list[str]:
    """Lines to print at the end."""
    return FIGURES


@pytest.fixture(scope="session")
def arguments() -> Iterator[dict[str, str]]:
    """The build arguments, with a daemon to build in."""
    try:
        with daemon.daemon(), daemon.build_arguments() as arguments:
            yield arguments
    except MissingError as error:
        pytest.exit(f"container tests: {error}", returncode=1)


@pytest.fixture(scope="session")
def built(arguments: dict[str, str]) -> Build:
    """The first build."""
    return daemon.build(REPOSITORY, arguments)


@pytest.fixture(scope="session")
def image(built: Build) -> str:  # noqa: ARG001 - it has to be built
    """The image's name."""
    return IMAGE


@pytest.fixture(scope="session")
def client(image: str) -> Iterator[docker.DockerClient]:  # noqa: ARG001
    """A connection to the daemon."""
    with contextlib.closing(docker.from_env(timeout=600)) as client:
        yield client


@pytest.fixture(scope="session")
def closed(client: docker.DockerClient) -> Iterator[Network]:
    """A network that this machine reaches, and that leads nowhere."""
    network = client.networks.create("djl-container-closed", internal=True)
    yield network
    network.remove()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to mount on /opt/ml/model."""
    prepared = subprocess.run(
        [sys.executable, "-m", "chatglm2", "prepare"], capture_output=True, text=True, check=True
    ).stdout
    folder = Path("/var/tmp") / f"{tmp_path_factory.getbasetemp().name}-{os.getpid()}"
    folder.mkdir()
    yield daemon.mounted_models(folder / "model", Path(prepared.strip()))
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def project(client: docker.DockerClient) -> Iterator[Project]:
    """`docker compose --profile cpu up --wait`, as users do, on free ports."""
    project = Project(client, IMAGE, free_port(), free_port(), free_port())
    try:
        project.up()
        yield project
    finally:
        project.down()
