"""What only DJL Serving can get wrong: a dead worker, an orderly end, routes that must not be reachable."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import torch
from safetensors.torch import save_file

from bench.ports import free_port
from chatglm2.djl import MODEL_FOLDER, find_release
from chatglm2.errors import SetupError
from chatglm2.settings import Settings
from tests import servers
from tests.chatglm2.conftest import require_djl
from tests.servers import Server

pytestmark = pytest.mark.djl

SHORT = {"inputs": "Hi", "parameters": {"max_new_tokens": 1, "do_sample": False}}
LONG = {"inputs": "Write a long story.", "parameters": {"max_new_tokens": 40, "do_sample": False, "stream": True}}


@pytest.fixture(scope="module")
def djl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    require_djl()
    with servers.chat("djl", tmp_path_factory.mktemp("djl") / "log") as server:
        yield server


def worker(server: Server) -> psutil.Process:
    """The Python worker."""
    found = servers.child(server.process.pid, "djl_python_engine")
    assert found is not None
    return found


def test_killed_worker_comes_back_and_ping_is_true_meanwhile(djl: Server) -> None:
    worker(djl).kill()
    deadline = time.monotonic() + 120
    while djl.healthy():
        assert time.monotonic() < deadline, "ping says healthy without a worker"
    djl.wait_healthy()
    assert djl.post("/invocations", {"inputs": "Hi", "parameters": {"max_new_tokens": 2}}).status_code == 200


def test_killed_starter_takes_java_and_worker_along(tmp_path: Path) -> None:
    require_djl()
    with servers.chat("djl", tmp_path / "log") as server:
        left = servers.children(server.process.pid)
        server.process.kill()
        server.process.wait()
        servers.wait_until_ended(left)


def test_damaged_weights_are_refused_in_one_line_before_java_starts(tmp_path: Path) -> None:
    require_djl()
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(b"\x40")
    command = [sys.executable, "-m", "chatglm2", "djl", "--port", str(free_port()), "--model", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "model.safetensors cannot be read" in done.stderr


def test_model_that_cannot_be_loaded_ends_the_server_with_one_line(tmp_path: Path) -> None:
    """A folder that looks like a model until it is loaded, in the worker."""
    require_djl()
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    save_file({"other": torch.ones(1)}, tmp_path / "model.safetensors")
    command = [sys.executable, "-m", "chatglm2", "djl", "--port", str(free_port()), "--model", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode != 0
    assert "cannot be loaded as a native checkpoint" in done.stdout


def test_relative_release_is_found_from_wherever_it_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "release" / "bin").mkdir(parents=True)
    (tmp_path / "release" / "bin" / "serving").touch()
    monkeypatch.chdir(tmp_path)
    assert find_release(Path("release"), Path("cache")) == tmp_path / "release"


def test_release_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    (tmp_path / "serving.tar").touch()
    with pytest.raises(SetupError, match="CHAT_CACHE_DIR"):
        find_release(tmp_path / "serving.tar", Path("/proc/none"))


def test_model_directory_serves_without_our_starter_and_takes_its_model_from_the_properties(tmp_path: Path) -> None:
    """As a stock image runs it: plain DJL Serving, the model named by `option.model_id`."""
    require_djl()
    model, port = prepared(), free_port()
    shutil.copytree(MODEL_FOLDER, tmp_path / "chatglm2", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "chatglm2" / "serving.properties").open("a") as properties:
        properties.write(f"option.model_id={model}\n")
    (tmp_path / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{port}\nmanagement_address=unix:{tmp_path}/management\n"
        f"load_models=chatglm2=file://{tmp_path}/chatglm2\nmodel_store={tmp_path}/elsewhere\n"
    )
    # DJL kills the process whose number an earlier run left beside its socket, whoever has that number by now
    own_tmp = {"JAVA_OPTS": f"-Djava.io.tmpdir={tmp_path}"}
    env = {"PYTHON_EXECUTABLE": sys.executable, "MODEL_SERVER_HOME": str(tmp_path)} | own_tmp
    release = find_release(Path(os.environ["DJL_SERVING_HOME"]), Settings().cache_dir)
    (tmp_path / "elsewhere").mkdir()
    start = ["env", "--unset=HF_MODEL_ID", f"--chdir={tmp_path / 'elsewhere'}", str(release / "bin" / "serving")]
    command = [*start, "-f", str(tmp_path / "config.properties")]
    with servers.running(command, tmp_path / "log", port, env) as server:
        assert server.post("/invocations", SHORT).json()["history"]


def prepared() -> str:
    """Folder of the embedded model."""
    command = [sys.executable, "-m", "chatglm2", "prepare"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]


def test_a_query_is_no_part_of_the_body(djl: Server) -> None:
    assert djl.post("/v1/chat/completions?api-version=2024-06-01&data=abc", SHORT).json()["history"]
    assert "the body is empty" in httpx.post(f"{djl.url}/invocations?data=abc", timeout=60).json()["error"]


def test_management_is_not_on_a_port(djl: Server) -> None:
    assert httpx.get(f"{djl.url}/models", timeout=60).status_code == 404
    assert httpx.get(f"{djl.url}/console", timeout=60).status_code == 404
    java = next(process.pid for process in servers.children(djl.process.pid) if process.name() == "java")
    listening = subprocess.run(["ss", "-ltnp"], capture_output=True, text=True, check=True).stdout
    own = [line for line in listening.splitlines() if f"pid={java}," in line]
    assert len(own) == 1
    assert djl.url.rsplit(":", 1)[-1] in own[0]


def test_sigterm_lets_a_running_request_finish(djl: Server) -> None:
    """The last test on this server, which it ends."""
    with httpx.stream("POST", f"{djl.url}/invocations", json=LONG, timeout=60) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines))["delta"]
        djl.process.terminate()
        refused = status_after_drain_began(djl)
        assert json.loads([*lines][-1])["usage"]["completion_tokens"] == 40
    assert refused == 503
    assert djl.process.wait(40) == 0


def test_what_takes_longer_than_the_shutdown_ends_with_503(tmp_path: Path) -> None:
    require_djl()
    body = LONG | {
        "parameters": {"max_new_tokens": 4000, "do_sample": False, "repetition_penalty": 2.0, "stream": True}
    }
    with servers.chat("djl", tmp_path / "log", {"CHAT_DRAIN_SECONDS": "1"}) as server:
        with httpx.stream("POST", f"{server.url}/invocations", json=body, timeout=60) as response:
            lines = response.iter_lines()
            assert json.loads(next(lines))["delta"]
            server.process.terminate()
            assert json.loads([*lines][-1])["code"] == 503
        assert server.process.wait(40) == 0


def status_after_drain_began(djl: Server) -> int:
    """The first status other than 200; 200 if requests are still taken after a minute."""
    limit = time.monotonic() + 60
    with httpx.Client(base_url=djl.url, timeout=120) as client:
        while (status := client.post("/invocations", json=SHORT).status_code) == 200 and time.monotonic() < limit:
            pass
    return status
