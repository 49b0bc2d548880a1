"""Containers of the image that a test starts by itself, and requests to them."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import httpx
from docker.models.containers import Container

from tests.container.daemon import IMAGE

START_SECONDS = 300


@dataclass(frozen=True)
class Ended:
    """How a container ended."""

    status: int
    log: list[str]


def running(client: docker.DockerClient, *command: str, **options: Any) -> contextlib.AbstractContextManager[Container]:
    """`docker run OPTIONS IMAGE COMMAND` with the suite's image; removed in the end."""
    return running_image(client, IMAGE, *command, **options)


@contextlib.contextmanager
def running_image(client: docker.DockerClient, image: str, *command: str, **options: Any) -> Iterator[Container]:
    """The same with another one."""
    container = client.containers.run(image, list(command), detach=True, **options)
    try:
        yield container
    finally:
        container.remove(force=True, v=True)


def ended(client: docker.DockerClient, *command: str, **options: Any) -> Ended:
    """How such a container ends by itself."""
    with running(client, *command, **options) as container:
        status = container.wait(timeout=START_SECONDS)["StatusCode"]
        return Ended(status, container.logs().decode().splitlines())


def execute(container: Container, *command: str) -> tuple[int, str]:
    """Exit status and output of a command run in it, as its user."""
    status, output = container.exec_run(list(command))
    assert isinstance(output, bytes)
    return int(status or 0), output.decode()


def mount(folder: Path, target: str) -> dict[str, dict[str, dict[str, str]]]:
    """`folder` read-only on `target`."""
    return {"volumes": {str(folder): {"bind": target, "mode": "ro"}}}


def address(container: Container, port: int) -> str:
    """Where this machine reaches the container's port without publishing it."""
    container.reload()
    networks = container.attrs["NetworkSettings"]["Networks"]
    return f"http://{next(iter(networks.values()))['IPAddress']}:{port}"


def await_ping(container: Container, url: str) -> None:
    """Return when `/ping` answers 200; fail with the log when the container ends first."""
    limit = time.monotonic() + START_SECONDS
    while not _pings(url):
        container.reload()
        log = container.logs().decode()[-3000:]
        assert container.status == "running", log
        assert time.monotonic() < limit, log
        time.sleep(0.2)


def _pings(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/ping", timeout=5).status_code == 200
    return False
