"""Uploading text, training on it, and switching models, as a client of the real service sees it."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from bench.ports import free_port
from denoiser.api.app import TrainingParts, create_app
from denoiser.api.requests import Limits
from denoiser.api.server import only_readable, open_denoiser, open_training
from denoiser.api.service import Service
from denoiser.api.training_routes import TrainingRoutes
from denoiser.errors import ConflictError, OffError, StoreError
from denoiser.jobs.models import DEFAULT, Models
from denoiser.jobs.run import Order, run
from denoiser.jobs.store import ENDS, Job, Store
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import MiniLM
from denoiser.settings import Settings
from tests.denoiser.servers import running as running_app
from tests.denoiser.test_supervisor import JUDGE
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


def denoised(web: httpx.Client) -> list[list[float]]:
    """What the model in use makes of the same noisy vector each time."""
    body = {"texts": ["The red boat stops near my neighbour."], "noise_level": 0.1, "seed": 1}
    found: list[list[float]] = web.post("/denoise/text", json=body).json()["denoised_embeddings"]
    return found


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


def test_media_types_are_in_any_case(web: httpx.Client) -> None:
    request = web.build_request("POST", "/upload/", files={"file": b"Only one line of text."})
    request.headers["content-type"] = request.headers["content-type"].replace("multipart/form", "Multipart/Form")
    assert "found 1 different sentences" in web.send(request).json()["detail"]


def test_a_parameter_that_cannot_be_used_is_refused_in_one_line(web: httpx.Client) -> None:
    reply = send(web, TEXT.encode(), "/upload/?wait=maybe")
    assert (reply.status_code, reply.json()) == (422, {"detail": "wait is 'maybe'; send true or false"})


def test_an_upload_is_trained_while_the_service_answers(web: httpx.Client, data: Path) -> None:
    with_old = denoised(web)
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
    assert not np.allclose(denoised(web), with_old, atol=1e-6)
    assert [e["state"] for e in seen if "state" in e] == [
        "queued", "encoding", "training", "evaluating", "promoting", "done",
    ]  # fmt: skip
    steps = [e["done"] for e in seen if "loss" in e]
    assert steps == [*range(1, 6)]
    job = web.get(body["status_url"]).json()
    assert (job["state"], job["progress"]) == ("done", {"done": 1, "total": 1})
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
    with_new = denoised(web)
    assert web.post("/models/default/activate").json()["active"] is True
    assert not np.allclose(denoised(web), with_new, atol=1e-6)
    assert web.post("/models/nothing/activate").status_code == 404


def test_a_damaged_model_is_listed_as_such_and_refused_without_a_path(web: httpx.Client, data: Path) -> None:
    trained = next(m["model_id"] for m in web.get("/models").json() if m["model_id"] != "default")
    folder = data / "models" / trained
    folder.rename(aside := data / "aside")
    refused = web.post(f"/models/{trained}/activate")
    listed = {m["model_id"]: m["sha256"] for m in web.get("/models").json()}
    aside.rename(folder)
    assert refused.status_code == 409
    assert f"model {trained} is damaged or missing" in refused.json()["detail"]
    assert "/" not in refused.text
    assert listed[trained] == "damaged"


def test_models_are_listed_when_the_one_of_model_path_has_gone(tmp_path: Path) -> None:
    [default] = Models(tmp_path, tmp_path / "gone", Store(tmp_path)).all()
    assert (default.id, default.sha256, default.active) == ("default", "damaged", True)


def test_a_job_on_a_model_that_has_gone_fails_without_a_path(tmp_path: Path) -> None:
    training = open_training(Settings(denoiser_data=tmp_path))
    assert not isinstance(training, OffError)
    job = training.store.add("team.txt", TEXT, 150).id
    run(Order(data=tmp_path, default=tmp_path / "gone", encoder=None, job=job, steps=1))
    training.close()
    failed = training.store.get(job)
    assert failed.state == "failed"
    assert "the active model is damaged or missing" in failed.message
    assert "/" not in failed.message


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


@pytest.mark.parametrize("last", ["abc", "9" * 23, str(2**63), "9" * 5000, "-1"])
def test_an_unusable_last_event_id_is_ignored(web: httpx.Client, last: str) -> None:
    url = f"/jobs/{web.get('/jobs').json()[0]['job_id']}/events"
    assert web.get(url, headers={"Last-Event-ID": last}).text.count("event: state") > 1


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://elsewhere.example"}, {"Host": "elsewhere.example"}, {"Host": "["}]
)
def test_pages_of_other_sites_cannot_train_or_switch(web: httpx.Client, headers: dict[str, str]) -> None:
    assert web.post("/upload/", files={"file": b"text"}, headers=headers).status_code == 403
    assert web.post("/models/default/activate", headers=headers).status_code == 403


def test_a_second_server_with_the_same_data_serves_without_training(server: Server, data: Path) -> None:
    assert server.healthy()
    off = open_training(Settings(denoiser_data=data))
    assert "another server uses the data folder" in str(off)


def test_a_choice_of_a_model_that_cannot_be_read_stays_and_the_default_one_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = open_training(Settings(denoiser_data=tmp_path))
    assert not isinstance(training, OffError)
    store, models, loaded = training.store, training.models, list[Path]()
    job = store.add("team.txt", TEXT, 150).id
    store.judge(job, DEFAULT, True, [], "better")
    store.finish(job, models.base, DEFAULT)

    def refuse() -> list[Job]:
        raise StoreError("database is locked")

    def load(path: Path) -> Denoiser:
        loaded.append(path)
        return Denoiser.load(models.find(DEFAULT))

    with monkeypatch.context() as patched:
        patched.setattr(store, "all", refuse)
        training.open_active(load)
    training.close()
    assert loaded == [models.find(DEFAULT)]
    assert models.active() == job


@pytest.mark.parametrize(
    ("name", "reason"),
    [("state.sqlite", "file is not a database"), ("models", "exists"), ("worker.lock/x", "directory")],
)
def test_a_data_folder_that_cannot_be_used_switches_training_off_until_it_is_repaired(
    tmp_path: Path, name: str, reason: str
) -> None:
    damaged = tmp_path / name
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_text("text\n" * 1000)
    off = open_training(Settings(denoiser_data=tmp_path))
    assert isinstance(off, OffError)
    assert f"uploads are off: {'' if name != 'state.sqlite' else 'state.sqlite in '}the data folder {tmp_path}" in str(
        off
    )
    assert reason in str(off)
    damaged.unlink()
    if damaged.parent != tmp_path:
        damaged.parent.rmdir()
    training = open_training(Settings(denoiser_data=tmp_path))
    assert not isinstance(training, OffError)
    training.close()


@pytest.mark.parametrize(
    ("host", "key", "off"), [("0.0.0.0", None, True), ("0.0.0.0", "key", False), ("::1", None, False)]
)
def test_without_a_key_changing_is_off_unless_bound_to_localhost(host: str, key: str | None, off: bool) -> None:
    closed = only_readable(Settings(api_key=SecretStr(key) if key else None), host)
    assert (closed is not None) is off
    assert closed is None or "set API_KEY" in str(closed)


def test_where_changing_is_off_jobs_and_models_can_be_read(tmp_path: Path, denoiser: Denoiser, encoder: MiniLM) -> None:
    training = open_training(Settings(denoiser_data=tmp_path))
    assert not isinstance(training, OffError)
    parts = TrainingParts(training, open_denoiser, closed=OffError("uploads and model switching are off"))
    app = create_app(lambda: Service(denoiser, encoder, Limits(10, 10)), Settings(), parts=parts)
    with running_app(app) as address:
        assert httpx.get(f"{address}/jobs", timeout=60).json() == []
        assert [m["model_id"] for m in httpx.get(f"{address}/models", timeout=60).json()] == ["default"]
        for method, path in (("POST", "/upload/"), ("POST", "/models/default/activate"), ("DELETE", "/jobs/any")):
            assert httpx.request(method, address + path, timeout=60).status_code == 403
    training.close()


def test_a_store_that_cannot_be_used_is_said_and_denoising_goes_on(
    tmp_path: Path, denoiser: Denoiser, encoder: MiniLM
) -> None:
    training = open_training(Settings(denoiser_data=tmp_path))
    assert not isinstance(training, OffError)
    app = create_app(
        lambda: Service(denoiser, encoder, Limits(10, 10)), Settings(), parts=TrainingParts(training, open_denoiser)
    )
    with running_app(app) as address, httpx.Client(base_url=address, timeout=60) as web:
        while web.get("/ping").is_error:
            time.sleep(0.02)
        (tmp_path / "state.sqlite").unlink()
        (tmp_path / "state.sqlite").mkdir()
        paths = ("/upload/", "/models/default/activate", "/models", "/jobs", "/jobs/any")
        for method, path in zip(("POST", "POST", "GET", "GET", "DELETE"), paths, strict=True):
            reply = web.request(method, path)
            assert reply.status_code == 503
            assert f"the data folder {tmp_path} cannot be used (unable to open" in reply.json()["detail"]
        assert web.post("/denoise/text", json={"texts": ["Still there?"]}).status_code == 200
    training.close()


async def test_a_job_that_waits_for_the_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = open_training(Settings(denoiser_data=tmp_path))
    assert not isinstance(training, OffError)
    routes, job = TrainingRoutes(training, 1, False, threading.Event()), training.store.add("team.txt", TEXT, 150).id

    async def prepare(path: Path) -> Callable[[], None]:
        raise AssertionError(path)

    def full(_: str) -> None:
        raise StoreError("the data folder is full")

    monkeypatch.setattr(training.store, "started", full)
    work = asyncio.create_task(routes.run(prepare))
    async with asyncio.timeout(60):
        while not routes.job(job).message:  # noqa: ASYNC110 (another thread's work)
            await asyncio.sleep(0.02)
    work.cancel()
    await asyncio.wait([work])
    training.close()
    assert [(waiting.state, waiting.message) for waiting in routes.jobs()] == [("queued", "the data folder is full")]


async def test_what_killed_workers_and_cancelled_jobs_left_is_cleared_away_when_nothing_is_unfinished(
    tmp_path: Path,
) -> None:
    training = open_training(Settings(denoiser_data=tmp_path))
    assert not isinstance(training, OffError)
    store, models = training.store, training.models
    done = store.add("team.txt", TEXT, 150).id
    store.judge(done, models.active(), False, [], "no better")
    store.finish(done, models.base, models.active())
    cancelled = store.add("team.txt", TEXT, 150).id
    store.end(cancelled, "cancelled", "cancelled")
    whole, half, dropped = (models.folder(name) for name in (done, f".{done}.new.7", cancelled))
    for folder in (whole, half, dropped):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "cache" / "some.npy").write_bytes(b"embeddings")
    (tmp_path / "cache" / "made by hand").mkdir()
    (tmp_path / "cache" / "link").symlink_to(tmp_path / "models")
    stray = models.folder(".DS_Store")
    stray.touch()

    async def prepare(path: Path) -> Callable[[], None]:
        raise AssertionError(path)

    work = asyncio.create_task(training.supervisor(prepare).run())
    async with asyncio.timeout(60):
        while half.exists() or dropped.exists() or list((tmp_path / "cache").iterdir()):  # noqa: ASYNC110 (another thread's work)
            await asyncio.sleep(0.02)
    work.cancel()
    training.close()
    assert whole.is_dir()
    assert stray.exists()


async def test_a_new_model_is_loaded_before_its_job_is_done_and_a_cancel_meanwhile_is_too_late(
    tmp_path: Path,
) -> None:
    training = open_training(Settings(denoiser_data=tmp_path, train_steps=100))
    assert not isinstance(training, OffError)
    routes, store = TrainingRoutes(training, 1, False, threading.Event()), training.store
    seen: list[str] = []
    cancels: list[asyncio.Task[object]] = []

    async def prepare(path: Path) -> Callable[[], None]:
        seen.append(store.get(path.name).state)
        cancels.append(asyncio.create_task(routes.cancel(path.name)))
        await asyncio.sleep(0.2)
        seen.append(store.get(path.name).state)
        return lambda: seen.append(store.get(path.name).state)

    job = store.add("team.txt", TEXT, 150).id
    work = asyncio.create_task(routes.run(prepare))
    async with asyncio.timeout(240):
        while store.get(job).state not in ENDS:  # noqa: ASYNC110 (another process's work)
            await asyncio.sleep(0.1)
    with pytest.raises(ConflictError, match="it is done"):
        await cancels[0]
    work.cancel()
    await asyncio.wait([work])
    training.close()
    assert seen == ["promoting", "promoting", "done"]
    assert training.models.active() == job


async def test_a_model_chosen_while_a_job_trained_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = open_training(Settings(denoiser_data=tmp_path))
    assert not isinstance(training, OffError)
    store, models, used = training.store, training.models, list[Path]()

    async def prepare(path: Path) -> Callable[[], None]:
        return lambda: used.append(path)

    program = [sys.executable, "-c", f"{JUDGE}; s.judge(sys.argv[2], 'default', True, [], 'better')", str(tmp_path)]
    monkeypatch.setattr(training, "_command", lambda job: [*program, job])
    job = store.add("team.txt", TEXT, 150).id
    store.activate("chosen", models.base)
    work = asyncio.create_task(training.supervisor(prepare).run())
    async with asyncio.timeout(240):
        while store.get(job).state not in ENDS:  # noqa: ASYNC110 (another process's work)
            await asyncio.sleep(0.02)
    work.cancel()
    await asyncio.wait([work])
    training.close()
    ended = store.get(job)
    assert (ended.state, ended.promoted, used, models.active()) == ("done", False, [], "chosen")
    assert f"POST /models/{job}/activate" in ended.message


async def test_a_choice_that_cannot_be_kept_is_not_used(tmp_path: Path) -> None:
    training = open_training(Settings(denoiser_data=tmp_path))
    assert not isinstance(training, OffError)
    routes, used = TrainingRoutes(training, 1, False, threading.Event()), list[Path]()

    async def prepare(path: Path) -> Callable[[], None]:
        (tmp_path / "state.sqlite").write_text("damaged meanwhile")
        return lambda: used.append(path)

    work = asyncio.create_task(routes.run(prepare))
    await asyncio.sleep(0)
    with pytest.raises(StoreError):
        await routes.activate("default")
    work.cancel()
    await asyncio.wait([work])
    training.close()
    assert used == []


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
