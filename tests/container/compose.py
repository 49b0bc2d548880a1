"""The project's compose file with real Compose."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import docker
import httpx
from docker.models.containers import Container

from tests.container.daemon import CA, REPOSITORY

COMPOSE = Path(sys.executable).parent / "docker-compose"
NAME = "djl-container-test"


@dataclass(frozen=True)
class Project:
    """The services of the profile `cpu`."""

    client: docker.DockerClient
    image: str
    chat_port: int
    denoiser_port: int
    metrics_port: int

    def run(self, *arguments: str, profile: str | None = "cpu", **settings: str) -> subprocess.CompletedProcess[str]:
        """`docker compose ARGUMENTS`, with `settings` as a user's .env would have them."""
        profiles = ["--profile", profile] if profile else []
        environment = {
            "IMAGE": self.image,
            "CHAT_PORT": str(self.chat_port),
            "DENOISER_PORT": str(self.denoiser_port),
            "CHAT_METRICS_PORT": str(self.metrics_port),
            "CA_FILE": str(CA if CA.is_file() else "/dev/null"),
        }
        return subprocess.run(
            [COMPOSE, "--project-name", NAME, *profiles, *arguments],
            cwd=REPOSITORY,
            env=os.environ | environment | settings,
            capture_output=True,
            text=True,
            check=False,
        )

    def up(self) -> None:
        """Start it and wait until it is healthy."""
        done = self.run("up", "--no-build", "--wait")
        assert done.returncode == 0, f"{done.stderr}\n{self.run('logs', '--tail', '50').stdout}"

    def down(self) -> None:
        """Remove it, with its volume."""
        self.run("down", "--volumes", "--timeout", "30")

    def container(self, service: str) -> Container:
        """The container of a service."""
        return self.client.containers.get(f"{NAME}-{service}-1")

    @property
    def chat(self) -> str:
        """Address of chat on the host."""
        return f"http://127.0.0.1:{self.chat_port}"

    @property
    def denoiser(self) -> str:
        """Address of the denoiser on the host."""
        return f"http://127.0.0.1:{self.denoiser_port}"


def healthy(address: str) -> bool:
    """Whether `/ping` says so."""
    try:
        return httpx.get(f"{address}/ping", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
