"""A real registry, Debian's docker-registry, that asks for the name and password that moto gives out for ECR."""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.ports import free_port
from tests.deploy.stand_in import LOGIN

START_SECONDS = 60
# LOGIN, the password in bcrypt
HTPASSWD = "AWS:$2b$05$2m03F8lO4f8GRmkMCVA.rOzeNe9SYp4optZCDMLW9Ca2b9N78iU/.\n"
CONFIG = """version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}/data}}}}
http: {{addr: "127.0.0.1:{port}"}}
auth: {{htpasswd: {{realm: registry, path: {folder}/htpasswd}}}}
"""


@contextlib.contextmanager
def registry() -> Iterator[str]:
    """Runs it on a port of its own, with its data where images have room; yields host and port."""
    with tempfile.TemporaryDirectory(prefix="registry-", dir="/var/tmp") as folder, _running(Path(folder)) as address:
        yield address


@contextlib.contextmanager
def _running(folder: Path) -> Iterator[str]:
    if shutil.which("docker-registry") is None:
        pytest.exit("container tests: docker-registry not found; on Debian: apt-get install docker-registry", 1)
    port = free_port()
    (folder / "htpasswd").write_text(HTPASSWD)
    (folder / "config.yml").write_text(CONFIG.format(folder=folder, port=port))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log)
    try:
        _await(process, f"http://127.0.0.1:{port}/v2/", folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _await(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    limit = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(httpx.TransportError):
            assert httpx.get(url, auth=LOGIN, timeout=60).status_code == 200, log.read_text()
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.1)
