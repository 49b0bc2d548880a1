"""kill -9 at every stage of a training job: nothing is lost or stuck, the active model is whole, the service answers.

`KILLS=20 pytest tests/denoiser/test_kills.py` kills 20 times at each stage; without it, once.
"""

import os
import random
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from bench.ports import free_port
from denoiser.jobs.models import DEFAULT
from denoiser.jobs.store import ENDS, Store
from denoiser.model.checkpoint import BUNDLED_CHECKPOINT, read_manifest
from tests.denoiser.texts import sentences
from tests.servers import Server, children, running

KILLS = int(os.environ.get("KILLS", "1"))
FILE = {"file": ("team.txt", sentences(150).encode(), "text/plain")}
LIMIT = 200


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    port = free_port()
    env = {"DENOISER_DATA": str(folder / "data"), "TRAIN_STEPS": "20", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "denoiser", "serve", "--port", str(port)]
    with running(command, folder / "log", port, env) as server:
        yield server


def until(condition: Callable[[], bool], pause: float = 0.2) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(pause)


def kill(server: Server, workers: bool) -> None:
    """kill -9 the server; with `workers` also its worker, otherwise the worker has to notice."""
    found = [process.pid for process in children(server.process.pid)] if workers else []
    for pid in [server.process.pid, *found]:
        with suppress(ProcessLookupError):  # a worker ends by itself when its work or its server does
            os.kill(pid, signal.SIGKILL)
    server.process.wait()


def check(server: Server, folder: Path) -> None:
    """The service answers, the store is sound, and the active model is whole and the one it says."""
    assert server.post("/denoise/text", {"texts": ["Still there?"], "noise_level": 0.1}).status_code == 200
    with closing(sqlite3.connect(folder / "data" / "state.sqlite")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    models = httpx.get(f"{server.url}/models", timeout=60).json()
    active = [m for m in models if m["active"]]
    assert len(active) == 1
    path = folder / "data" / "models" / active[0]["model_id"]
    assert (
        read_manifest(BUNDLED_CHECKPOINT if active[0]["model_id"] == DEFAULT else path)["sha256"] == active[0]["sha256"]
    )
    assert all(m["sha256"] != "damaged" for m in models)


def upload(server: Server) -> str:
    """A new job, or the one that has not ended."""
    reply = httpx.post(f"{server.url}/upload/", files=FILE, timeout=60)
    assert reply.status_code in (202, 409), reply.text
    return str(httpx.get(f"{server.url}/jobs", timeout=60).json()[0]["job_id"])


def half_an_upload(server: Server, share: float) -> None:
    """Sends a share of an upload's bytes; after the last the server may or may not have replied."""
    request = httpx.Request("POST", f"{server.url}/upload/", files=FILE)
    body = request.read()
    head = "".join(f"{k}: {v}\r\n" for k, v in request.headers.items())
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
        connection.sendall(f"POST /upload/ HTTP/1.1\r\n{head}\r\n".encode() + body[: int(share * len(body))])
        time.sleep(random.random() * 0.02)


def kill_during(stage: str, turn: int, folder: Path) -> bool:
    """Kill once; whether it was in the stage (some are short, and the job may have gone on meanwhile)."""
    with serving(folder) as server:
        check(server, folder)
        if stage == "upload":
            half_an_upload(server, 1.0 if turn % 4 == 3 else random.random())
            kill(server, workers=True)
            return True
        store, job = Store(folder / "data"), upload(server)
        with closing(sqlite3.connect(store.path)) as db:

            def state() -> str:
                return str(db.execute("SELECT state FROM job WHERE id = ?", (job,)).fetchone()[0])

            until(lambda: state() in (stage, *ENDS), 0.0005)
            time.sleep(random.random() * (0.005 if stage == "promoting" else 0.05))
            kill(server, workers=turn % 2 == 0)
            return state() == stage


def hidden(folder: Path) -> list[str]:
    """What is unfinished; `Path.glob` would fail where folders vanish meanwhile."""
    return [name for _, *found in os.walk(folder) for names in found for name in names if name.startswith(".")]


@pytest.mark.timeout(600 + 400 * KILLS)
def test_nothing_is_lost_or_stuck(tmp_path: Path) -> None:
    for stage in ("upload", "training", "evaluating", "promoting"):
        hits = sum(kill_during(stage, turn, tmp_path) for turn in range(KILLS))
        print(f"{stage}: {hits} of {KILLS} kills hit it, the others what came next", flush=True)
    with serving(tmp_path) as server:
        store = Store(tmp_path / "data")
        until(lambda: store.unfinished() is None)
        check(server, tmp_path)
        assert {job.state for job in store.all()} == {"done"}
        until(lambda: not hidden(tmp_path / "data"))  # no half of a checkpoint is left
