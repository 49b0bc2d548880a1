"""Weights before they are sent: fetched from a mirror at a pinned revision, converted by the chat package."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.chatglm2.checkpoint import tiny
from tests.deploy.conftest import Account

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The part of a model hub that a download uses, over HTTP: the files of one folder at one revision."""

    folder: Path
    asked: list[str]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.asked.append(self.path)
        names = sorted(path.name for path in self.folder.iterdir())
        if self.path.split("?")[0] == f"/api/models/team/tiny/revision/{REVISION}":
            listed = {"id": "team/tiny", "sha": REVISION, "siblings": [{"rfilename": name} for name in names]}
            self._send(json.dumps(listed).encode(), {"Content-Type": "application/json"})
        elif self.path.split("?")[0] == f"/api/models/team/tiny/tree/{REVISION}":
            sizes = {name: (self.folder / name).stat().st_size for name in names}
            tree = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]
            self._send(json.dumps(tree).encode(), {"Content-Type": "application/json"})
        elif self.path.startswith(f"/team/tiny/resolve/{REVISION}/"):
            content = (self.folder / self.path.rpartition("/")[2]).read_bytes()
            self._send(content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": REVISION})
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815

    def _send(self, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@contextlib.contextmanager
def hub(folder: Path, asked: list[str]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Hub,), {"folder": folder, "asked": asked}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole original checkpoint, as a hub has it; with code, which must stay there."""
    folder = tmp_path_factory.mktemp("hub")
    sentencepiece = folder / "made.model"
    sentencepiece.write_bytes(tiny.train_sentencepiece())
    made = tiny.write_original(folder / "tiny", tiny.original_tensors(tiny.CONFIG), sentencepiece)
    (made / "modeling_chatglm.py").write_text("raise SystemExit")
    return made


def deploy(account: Account, home: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command as a process of its own, for the hub's library reads its environment once."""
    chosen = {**account.settings, "weights.model": "team/tiny", "weights.revision": REVISION, **settings}
    flags = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
    env = os.environ | {"HF_HOME": str(home / "hub"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "deploy", *words, "--json", "--set", f"weights.cache_dir={home / 'cache'}", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def test_from_a_mirror_to_s3(account: Account, original: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    with hub(original, asked) as mirror:
        endpoint = {"weights.hub_endpoint": mirror}
        planned = deploy(account, tmp_path, "weights", "download", "--dry-run", **endpoint)
        assert json.loads(planned.stdout) == [
            {"download": {"model": "team/tiny", "revision": REVISION, "endpoint": mirror}}
        ]
        assert asked == []
        done = deploy(account, tmp_path, "weights", "download", **endpoint)
        assert done.returncode == 0, done.stderr
        folder = Path(json.loads(done.stdout)["folder"])
        assert folder.name == REVISION
        fetched = {path.name for path in folder.iterdir()}
        assert fetched == {path.name for path in original.iterdir()} - {"modeling_chatglm.py"}
        asked.clear()
        assert "downloaded already" in deploy(account, tmp_path, "weights", "download", **endpoint).stderr
        assert asked == []
    done = deploy(account, tmp_path, "weights", "convert")
    assert done.returncode == 0, done.stderr
    assert (Path(json.loads(done.stdout)["folder"]) / "model.safetensors.index.json").is_file()
    done = deploy(account, tmp_path, "weights", "upload")
    assert done.returncode == 0, done.stderr
    uri = json.loads(done.stdout)["uri"]
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    assert prefix == f"djl-container/weights/team--tiny-{REVISION[:12]}/"
    listed = account.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    names = {item["Key"].removeprefix(prefix) for item in listed}
    assert {"config.json", "tokenizer.json", "model.safetensors.index.json"} <= names
    assert "conversion.json" not in names


def test_a_folder_of_original_files_is_converted(account: Account, original: Path, tmp_path: Path) -> None:
    settings = {"weights__model": str(original), "weights__cache_dir": str(tmp_path)}
    early = account.deploy("weights", "upload", **settings)
    assert early.code == 2
    assert "weights convert" in early.err
    planned = account.deploy("weights", "convert", "--dry-run", **settings)
    command = planned.json[0]["command"]
    assert command[1:5] == ["-m", "chatglm2", "convert", str(original)]
    assert not Path(command[5]).exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weights__model": "/nowhere"}, "no folder at /nowhere"),
        ({"weights__model": "team/tiny", "weights__revision": "main"}, "is no commit"),
        ({"weights__model": "s3://bucket/native"}, "in S3 already"),
    ],
)
def test_a_source_that_cannot_be_used(account: Account, settings: dict[str, str], said: str) -> None:
    done = account.deploy("weights", "download", **settings)
    assert done.code == 2
    assert said in done.err


def test_weights_that_are_in_s3_are_used_as_they_are(account: Account) -> None:
    done = account.deploy("up", "--dry-run", denoiser__enabled="false", weights__model="s3://team/native")
    assert done.code == 0, done.err
    model = next(entry for entry in done.json if entry["operation"] == "CreateModel")
    source = model["parameters"]["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]
    assert source["S3Uri"] == "s3://team/native/"
    assert not [entry for entry in done.json if entry["service"] == "s3"]
