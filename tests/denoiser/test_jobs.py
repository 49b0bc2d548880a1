"""Uploading text, training on it, and switching models, as a client of the real service sees it."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from bench.ports import free_port
from denoiser.api.app import create_app
from denoiser.api.server import open_training
from denoiser.api.service import Limits, Service
from denoiser.api.training_routes import TrainingRoutes
from denoiser.errors import OffError
from denoiser.jobs.store import Job, Store
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import MiniLM
from denoiser.settings import Settings
from tests.denoiser.servers import running as running_app
from tests.denoiser.texts import sentences
from tests.servers import Server, running

TEXT = sentences(150)


@pytest.fixture(scope="module")
def web(client: httpx.Client) -> Iterator[httpx.Client]:
    """The shared service, which has its default model again afterwards."""
    yield client
    client.post("/models/default/activate").raise_for_status()


def send(web: httpx.Client, content: bytes, path: str = "/upload/", name: str = "team.txt") -> httpx.Response:
    return web.post(path, files={"file": (name, content)})


def events(web: httpx.Client, job: str) -> Iterator[dict[str, object]]:
    with web.stream("GET", f"/jobs/{job}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])


@pytest.mark.parametrize(
    ("content", "status", "complaint"),
    [
        (b"", 422, "the file is empty"),
        (b" \n\n", 422, "the file is empty"),
        (b"Only one line of text.\n", 422, "found 1 different sentences"),
        (b"The same line again.\n" * 500, 422, "found 1 different sentences"),
        (TEXT.encode("utf-16"), 415, "UTF-16"),
        (TEXT.encode("utf-16-le"), 415, "not text"),
        (TEXT.encode() + b"\xff", 415, "not UTF-8"),
        (b"\x7fELF\x02\x01\x01" + bytes(200), 415, "not text"),
        (b"PK\x03\x04" + bytes(range(256)) * 9, 415, "not"),
        (b"word " * 1_000_000, 422, "line 1 has 5000000 characters"),
        (b"x" * 6_000_001, 413, "at most 6000000"),
        (b"x" * 20_000_000, 413, "at most"),
    ],
    ids=["empty", "blank", "one line", "repeated", "utf16", "utf16le", "bad utf8", "elf", "zip", "line", "big", "huge"],
)
def test_an_unusable_file_is_refused_and_nothing_is_written(
    web: httpx.Client, data: Path, content: bytes, status: int, complaint: str
) -> None:
    before = sorted(path for path in data.rglob("*") if "-wal" not in path.name and "-shm" not in path.name)
    jobs = web.get("/jobs").json()
    reply = send(web, content)
    assert reply.status_code == status, reply.text
    assert complaint in reply.json()["detail"]
    assert web.get("/jobs").json() == jobs
    assert sorted(p for p in data.rglob("*") if "-wal" not in p.name and "-shm" not in p.name) == before


def test_another_kind_of_body_is_refused(web: httpx.Client) -> None:
    assert web.post("/upload/", json={"file": "text"}).status_code == 415
    assert web.post("/upload/", files={"other": b"text"}).status_code == 422
    assert web.post("/upload/", content=b"--x", headers={"content-type": "multipart/form-data; boundary=x"}).is_error
    assert web.post("/upload/", content=b"--x", headers={"content-type": "multipart/form-data"}).status_code == 422


def test_an_upload_is_trained_while_the_service_answers(web: httpx.Client, data: Path) -> None:
    accepted = send(web, TEXT.encode(), name="../dir/team.txt")
    assert accepted.status_code == 202
    body = accepted.json()
    assert set(body) == {"filename", "word_count", "job_id", "status_url"}
    assert body["filename"] == "team.txt"
    assert body["word_count"] == len(TEXT.split())
    again = send(web, TEXT.encode())
    assert again.status_code == 409
    assert body["job_id"] in again.json()["detail"]
    seen = []
    for event in events(web, body["job_id"]):
        seen.append(event)
        assert web.post("/denoise/text", json={"texts": ["Still there?"]}).status_code == 200
    assert [e["state"] for e in seen if "state" in e] == [
        "queued", "encoding", "training", "evaluating", "promoting", "done",
    ]  # fmt: skip
    steps = [e["done"] for e in seen if "loss" in e]
    assert steps == [*range(1, 11)]
    job = web.get(body["status_url"]).json()
    assert (job["state"], job["progress"]["total"]) == ("done", 1)
    assert [point["step"] for point in job["losses"]] == steps
    assert {f["method"] for f in job["figures"]} == {"identity", "Wiener", "active model", "new model"}
    assert job["promoted"] is True, job["message"]
    assert "takes over" in job["message"]
    manifest = json.loads((data / "models" / body["job_id"] / "manifest.json").read_text())
    assert manifest["network"]["known"] == manifest["training_sentences"] == 100


def test_the_new_model_answers_and_the_old_one_can_be_had_back(web: httpx.Client) -> None:
    models = {m["model_id"]: m for m in web.get("/models").json()}
    trained = next(name for name in models if name != "default")
    assert models[trained]["active"] is True
    body = {"texts": ["The red boat stops near my neighbour."], "noise_level": 0.1, "seed": 1}

    def answer() -> list[list[float]]:
        found: list[list[float]] = web.post("/denoise/text", json=body).json()["denoised_embeddings"]
        return found

    limit = time.monotonic() + 120
    with_new = answer()
    assert web.post("/models/default/activate").json()["active"] is True
    with_old = answer()
    while (np.abs(np.subtract(with_new, with_old)) < 1e-6).all() and time.monotonic() < limit:
        web.post(f"/models/{trained}/activate")
        with_new = answer()
        web.post("/models/default/activate")
        with_old = answer()
    assert not np.allclose(with_new, with_old, atol=1e-6)
    assert web.post("/models/nothing/activate").status_code == 404


def test_waiting_gives_the_seed_s_reply_and_a_model_no_better_stays_aside(web: httpx.Client) -> None:
    trained = next(m["model_id"] for m in web.get("/models").json() if m["model_id"] != "default")
    assert web.post(f"/models/{trained}/activate").status_code == 200
    reply = send(web, TEXT.encode(), "/upload/?wait=true")
    assert reply.status_code == 200, reply.text
    assert set(reply.json()) == {"filename", "word_count", "loss"}
    assert 0 < reply.json()["loss"] < 2
    job = web.get("/jobs").json()[0]
    if not job["promoted"]:
        assert "the active model stays" in job["message"]
        assert next(m for m in web.get("/models").json() if m["active"])["model_id"] == trained


def test_a_job_can_be_cancelled_once(web: httpx.Client) -> None:
    job = send(web, TEXT.encode()).json()["job_id"]
    waiting = events(web, job)
    next(waiting)
    cancelled = web.delete(f"/jobs/{job}")
    assert cancelled.json()["state"] == "cancelled"
    assert list(waiting)[-1]["state"] == "cancelled"
    assert web.delete(f"/jobs/{job}").status_code == 409
    assert web.get("/jobs/nothing").status_code == web.delete("/jobs/nothing").status_code == 404
    assert web.get("/jobs/nothing/events").status_code == 404


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://elsewhere.example"}, {"Host": "elsewhere.example"}, {"Host": "["}]
)
def test_pages_of_other_sites_cannot_train_or_switch(web: httpx.Client, headers: dict[str, str]) -> None:
    assert web.post("/upload/", files={"file": b"text"}, headers=headers).status_code == 403
    assert web.post("/models/default/activate", headers=headers).status_code == 403


def test_a_second_server_with_the_same_data_serves_without_training(server: Server, data: Path) -> None:
    assert server.healthy()
    off = open_training(Settings(denoiser_data=data), "127.0.0.1")
    assert "another server uses the data folder" in str(off)


@pytest.mark.parametrize(
    ("host", "key", "off"), [("0.0.0.0", None, True), ("0.0.0.0", "key", False), ("::1", None, False)]
)
def test_without_a_key_uploads_are_off_unless_bound_to_localhost(
    tmp_path: Path, host: str, key: str | None, off: bool
) -> None:
    settings = Settings(denoiser_data=tmp_path, api_key=SecretStr(key) if key else None)
    training = open_training(settings, host)
    assert isinstance(training, OffError) is off
    if isinstance(training, OffError):
        assert "set API_KEY" in str(training)
    else:
        training.close()


async def test_what_killed_workers_left_is_cleared_away_when_nothing_is_unfinished(tmp_path: Path) -> None:
    training = open_training(Settings(denoiser_data=tmp_path), "127.0.0.1")
    assert not isinstance(training, OffError)
    whole, half = tmp_path / "models" / "20260101-120000-abcdef", tmp_path / "models" / ".20260101-120000-abcdef.new.7"
    for folder in (whole, half):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "cache" / "some.npy").write_bytes(b"embeddings")

    async def switch(model: str) -> None:
        raise AssertionError(model)

    work = asyncio.create_task(training.supervisor(switch).run())
    async with asyncio.timeout(60):
        while half.exists() or list((tmp_path / "cache").iterdir()):  # noqa: ASYNC110 (another thread's work)
            await asyncio.sleep(0.02)
    work.cancel()
    training.close()
    assert whole.is_dir()


async def test_a_model_activated_after_a_job_has_ended_keeps_its_place(tmp_path: Path) -> None:
    training = open_training(Settings(denoiser_data=tmp_path), "127.0.0.1")
    assert not isinstance(training, OffError)
    switched: list[str] = []

    async def switch(model: str) -> None:
        switched.append(model)

    async def begun(job: Job) -> None:
        async with asyncio.timeout(60):
            while not training.store.get(job.id).starts:  # noqa: ASYNC110 (another thread's work)
                await asyncio.sleep(0.02)

    job = training.store.add("team.txt", TEXT, 150)
    work = asyncio.create_task(TrainingRoutes(training, 1, False, threading.Event()).run(switch))
    await begun(job)
    training.store.finish(job.id, [], training.models.base, "better")  # as its worker does
    training.store.activate("default", training.models.base)
    await begun(training.store.add("next.txt", TEXT, 150))
    work.cancel()
    await asyncio.wait([work])
    training.close()
    assert switched == []


def test_where_training_is_off_the_routes_say_so(denoiser: Denoiser, encoder: MiniLM) -> None:
    service = Service(denoiser, encoder, Limits(10, 10))
    with running_app(create_app(lambda: service, Settings())) as address:
        for method, path in (("POST", "/upload/"), ("GET", "/jobs"), ("GET", "/models")):
            reply = httpx.request(method, address + path, timeout=60)
            assert reply.status_code == 403
            assert "off" in reply.json()["detail"]


def test_a_stop_ends_streams_and_leaves_the_job_for_the_next_start(tmp_path: Path) -> None:
    env = {"DENOISER_DATA": str(tmp_path / "data"), "PORT": str(port := free_port())}
    with running([sys.executable, "-m", "denoiser", "serve"], tmp_path / "log", port, env) as server:
        job = httpx.post(f"{server.url}/upload/", files={"file": TEXT.encode()}, timeout=60).json()["job_id"]
        seen: list[str] = []
        with httpx.Client(base_url=server.url, timeout=240) as web:
            reader = threading.Thread(target=lambda: seen.extend(str(e) for e in events(web, job)))
            reader.start()
            while not seen:
                time.sleep(0.05)
            server.process.terminate()
            reader.join(120)
            assert server.process.wait(60) == 0
    waiting = Store(tmp_path / "data").unfinished()
    assert waiting is not None  # test_kills has what comes next
    assert waiting.id == job
