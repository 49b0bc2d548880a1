"""Where a model may come from: a folder, a hub, an S3 prefix, or what SageMaker mounted."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from chatglm2.settings import Settings
from chatglm2.startup import find_model
from tests.hub import COMMIT, FakeHub, fake_hub

CHUNK = 10 * 1024 * 1024
"""Bytes that `huggingface_hub` writes at once."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, original: Path) -> Path:
    """An original checkpoint as a repository holds it: with code, another format, and a large enough shard."""
    folder = tmp_path_factory.mktemp("repository") / "files"
    shutil.copytree(original, folder)
    (folder / "modeling_chatglm.py").write_text("raise SystemExit('remote code was run')\n")
    (folder / "model.gguf").write_bytes(b"0")
    return folder


@pytest.fixture
def hub(files: Path) -> Iterator[FakeHub]:
    with fake_hub(files, "v1") as hub:
        yield hub


def environment(folder: Path, **variables: str) -> dict[str, str]:
    own = {"HOME": str(folder), "HF_HOME": str(folder / "hub"), "CHAT_CACHE_DIR": str(folder / "cache")}
    quiet = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "HF_HUB_OFFLINE": "0",
    }
    return dict(os.environ) | own | quiet | {"AWS_DEFAULT_REGION": "us-east-1"} | variables


def prepare(env: Mapping[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chatglm2", "prepare", *options]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=200)


def is_converted(folder: str) -> bool:
    """Whether the folder that `prepare` printed is a native checkpoint."""
    return bool(json.loads((Path(folder.strip()) / "config.json").read_text())["model_type"] == "glm")


def test_hub_model_is_fetched_by_its_pinned_revision_and_converted(hub: FakeHub, tmp_path: Path) -> None:
    env = environment(tmp_path, HF_ENDPOINT=hub.url, HF_MODEL_ID="org/name", HF_REVISION="v1")
    done = prepare(env)
    assert done.returncode == 0, done.stderr
    assert is_converted(done.stdout)
    assert "modeling_chatglm.py" not in hub.fetched()
    assert "model.gguf" not in hub.fetched()
    before = len(hub.fetched())
    assert prepare(env).stdout == done.stdout
    assert len(hub.fetched()) == before
    assert COMMIT in {path.split("/")[4] for _, path, _ in hub.requests if "/resolve/" in path}


def test_fetched_commit_needs_no_hub_any_more(hub: FakeHub, tmp_path: Path) -> None:
    env = environment(tmp_path, HF_ENDPOINT=hub.url, HF_MODEL_ID="org/name", HF_REVISION=COMMIT)
    first = prepare(env)
    assert first.returncode == 0, first.stderr
    assert prepare(env | {"HF_ENDPOINT": "http://127.0.0.1:9"}).stdout == first.stdout


def test_file_that_arrives_damaged_is_not_kept(hub: FakeHub, tmp_path: Path) -> None:
    hub.spoiled.add("tokenizer.model")
    env = environment(tmp_path, HF_ENDPOINT=hub.url, HF_MODEL_ID="org/name", HF_REVISION="v1")
    done = prepare(env)
    assert done.returncode == 1
    assert "tokenizer.model arrived with checksum" in done.stderr.splitlines()[-1]
    hub.spoiled.clear()
    assert prepare(env).returncode == 0


def test_hub_download_goes_on_after_a_kill(tmp_path: Path) -> None:
    folder, weights = tmp_path / "files", random.Random(0).randbytes(3 * CHUNK)
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(weights)
    with fake_hub(folder, "v1") as hub:
        hub.hold_at["model.safetensors"] = CHUNK + CHUNK // 2
        env = environment(tmp_path, HF_ENDPOINT=hub.url, HF_REVISION="v1")
        command = [sys.executable, "-m", "chatglm2", "prepare", "--model", "org/name"]
        with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as process:
            assert hub.held.wait(120)
            wait_for_partial(tmp_path)
            process.send_signal(signal.SIGKILL)
        done = prepare(env, "--model", "org/name")
        assert done.returncode == 0, done.stderr
        assert (Path(done.stdout.strip()) / "model.safetensors").read_bytes() == weights
        ranges = [asked for _, path, asked in hub.requests if path.endswith("model.safetensors") and asked]
        assert ranges == [f"bytes={CHUNK}-"]


def wait_for_partial(folder: Path) -> None:
    """Return when the whole first piece of an unfinished file is on the disk."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if any(path.stat().st_size >= CHUNK for path in folder.rglob("*.partial")):
            return
        time.sleep(0.05)
    raise AssertionError("nothing of the file was written")


@pytest.mark.parametrize(("model", "revision"), [("org/none", "v1"), ("org/name", "v9")])
def test_what_a_hub_does_not_have_is_said_in_one_line(hub: FakeHub, tmp_path: Path, model: str, revision: str) -> None:
    done = prepare(environment(tmp_path, HF_ENDPOINT=hub.url, HF_REVISION=revision), "--model", model)
    assert done.returncode == 1
    assert model in done.stderr.splitlines()[-1]
    assert "HF_REVISION" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_hub_out_of_reach_is_said_with_the_mirror_setting(tmp_path: Path) -> None:
    done = prepare(environment(tmp_path, HF_ENDPOINT="http://127.0.0.1:9"), "--model", "THUDM/chatglm2-6b")
    assert done.returncode == 1
    assert "b259b27320263629b0afccef134c54028233673d" in done.stderr
    assert "HF_ENDPOINT" in done.stderr.splitlines()[-1]


def test_an_empty_address_of_the_hub_is_none(tmp_path: Path) -> None:
    env = environment(tmp_path, HF_ENDPOINT="", HTTPS_PROXY="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")
    done = prepare(env, "--model", "org/name")
    assert done.returncode == 1
    assert "Connection refused" in done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def s3(files: Path) -> Iterator[dict[str, str]]:
    """Environment of an S3 that holds the files under s3://models/chat/glm/."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client: Any = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    client.create_bucket(Bucket="models")
    for path in files.iterdir():
        client.upload_file(str(path), "models", f"chat/glm/{path.name}")
    client.put_object(Bucket="models", Key="chat/glm/", Body=b"")
    client.put_object(Bucket="models", Key="chat/other/config.json", Body=b"{}")
    yield {"AWS_ENDPOINT_URL": url}
    server.stop()


def test_s3_prefix_is_fetched_and_converted_and_a_second_start_fetches_nothing(
    s3: dict[str, str], tmp_path: Path
) -> None:
    env = environment(tmp_path, **s3)
    done = prepare(env, "--model", "s3://models/chat/glm/")
    assert done.returncode == 0, done.stderr
    assert is_converted(done.stdout)
    assert not list((tmp_path / "cache").rglob("*.py"))
    again = prepare(env, "--model", "s3://models/chat/glm")
    assert again.stdout == done.stdout
    assert "fetching" in done.stderr
    assert "fetching" not in again.stderr


def test_s3_file_that_changed_here_is_fetched_again(s3: dict[str, str], tmp_path: Path) -> None:
    env = environment(tmp_path, **s3)
    prepare(env, "--model", "s3://models/chat/glm/")
    shard = max((tmp_path / "cache").glob("s3-*/*.bin"))
    shard.write_bytes(shard.read_bytes()[:100])
    (shard.parent / "stale.json").write_text("{}")
    done = prepare(env, "--model", "s3://models/chat/glm/")
    assert done.returncode == 0, done.stderr
    assert f"fetching {shard.name}" in done.stderr
    assert not (shard.parent / "stale.json").exists()


@pytest.mark.parametrize("uri", ["s3://models/chat/none/", "s3://nobody/chat/", "s3://models"])
def test_s3_prefix_without_a_model_is_said_in_one_line(s3: dict[str, str], tmp_path: Path, uri: str) -> None:
    done = prepare(environment(tmp_path, **s3), "--model", uri)
    assert done.returncode == 1
    assert uri in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_s3_model_that_cannot_be_kept_is_said_in_one_line(s3: dict[str, str], tmp_path: Path) -> None:
    env = environment(tmp_path, **s3) | {"CHAT_CACHE_DIR": "/proc/none"}
    done = prepare(env, "--model", "s3://models/chat/glm/")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "CHAT_CACHE_DIR" in done.stderr


class CutOffS3(BaseHTTPRequestHandler):
    """Lists one file, whose content never comes."""

    def do_GET(self) -> None:
        file = b"<Contents><Key>config.json</Key><Size>9</Size><ETag>e</ETag></Contents>"
        listing = b"<ListBucketResult>" + file + b"</ListBucketResult>"
        content = listing if "list-type" in self.path else b""
        self.send_response(200)
        self.send_header("ETag", "e")
        self.send_header("Content-Length", str(len(content) or 9))
        self.end_headers()
        self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815


def test_s3_file_that_breaks_off_again_and_again_is_said_in_one_line(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), CutOffS3) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = environment(tmp_path, AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_port}")
        done = prepare(env, "--model", "s3://models")
        server.shutdown()
    assert done.returncode == 1
    assert "s3://models could not be fetched" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_what_sagemaker_mounted_is_the_default(original: Path, tmp_path: Path) -> None:
    env = environment(tmp_path, CHAT_MOUNTED_MODEL=str(original))
    done = prepare(env)
    assert done.returncode == 0, done.stderr
    assert is_converted(done.stdout)


def test_named_model_wins_over_what_is_mounted(original: Path, converted: Path, tmp_path: Path) -> None:
    env = environment(tmp_path, CHAT_MOUNTED_MODEL=str(original), HF_MODEL_ID=str(converted))
    assert prepare(env).stdout.strip() == str(converted)


def test_relative_folder_is_found_from_wherever_it_is_loaded(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(converted.parent)
    assert find_model(Settings(model=converted.name)) == converted
