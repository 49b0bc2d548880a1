"""Real servers as context managers: each starts one process, waits until it is healthy, yields it, and stops it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from bench.ports import free_port

START_SECONDS = 600


@dataclass
class Server:
    """A running process and its address."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    metrics_url: str = ""
    """Where a chat service has its metrics."""

    def post(self, path: str, body: object, **options: object) -> httpx.Response:
        """POST `body` as JSON."""
        return httpx.post(self.url + path, json=body, timeout=120, **options)  # type: ignore[arg-type]

    def get(self, path: str, **options: object) -> httpx.Response:
        """GET."""
        return httpx.get(self.url + path, timeout=120, **options)  # type: ignore[arg-type]

    def connect(self) -> socket.socket:
        """A connection for what a client of HTTP would not send."""
        return socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), timeout=60)

    def healthy(self) -> bool:
        """Whether `/ping` says so."""
        try:
            return httpx.get(f"{self.url}/ping", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_healthy(self) -> None:
        """Return when `/ping` answers 200; fail with the log when the process ends first."""
        limit = time.monotonic() + START_SECONDS
        while not self.healthy():
            assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.log.read_text()[-3000:]}"
            assert time.monotonic() < limit, f"not healthy in {START_SECONDS} s: {self.log.read_text()[-3000:]}"
            time.sleep(0.2)


@contextlib.contextmanager
def running(command: list[str], log: Path, port: int, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """`started`, and healthy when the block begins."""
    with started(command, log, port, env) as server:
        server.wait_healthy()
        yield server


@contextlib.contextmanager
def started(command: list[str], log: Path, port: int, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run `command`, which serves on `port`, until the block ends; then SIGTERM, and SIGKILL for what does not end."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | (env or {}), start_new_session=True
        )
    try:
        yield Server(process, f"http://127.0.0.1:{port}", log)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(40)
        with contextlib.suppress(ProcessLookupError):  # what did not end, or outlived its parent
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def chat(
    adapter: str, log: Path, env: Mapping[str, str] | None = None, *options: str, python: str = sys.executable
) -> Iterator[Server]:
    """The chat service behind `adapter`: `serve` for FastAPI, `djl` for DJL Serving."""
    port = free_port()
    command = [python, "-m", "chatglm2", adapter, "--port", str(port), *options]
    metrics = free_port()
    with running(command, log, port, {"CHAT_METRICS_PORT": str(metrics)} | dict(env or {})) as server:
        server.metrics_url = f"http://127.0.0.1:{metrics}/metrics"
        yield server


def children(pid: int) -> list[psutil.Process]:
    """All descendants of process `pid`."""
    return psutil.Process(pid).children(recursive=True)  # type: ignore[no-any-return]


def child(pid: int, part: str) -> psutil.Process | None:
    """A descendant of process `pid` with `part` in its command line."""
    return next((process for process in children(pid) if _runs(process) and part in " ".join(process.cmdline())), None)


def wait_until(holds: Callable[[], object], seconds: float = 120) -> None:
    """Return when `holds()` does; fail when it does not in time."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, f"still not so after {seconds} s"
        time.sleep(0.05)


def wait_until_ended(processes: list[psutil.Process], seconds: float = 120) -> None:
    """Return when none of `processes` runs any more; fail when one still does after some time."""
    limit = time.monotonic() + seconds
    while left := [process for process in processes if _runs(process)]:
        assert time.monotonic() < limit, f"after {seconds} s still there: {left}"
        time.sleep(0.1)


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False
