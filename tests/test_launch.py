"""`make serve` as a user meets it: both services, curl lines that work as pasted, Ctrl-C, a taken port."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
import pytest

from bench.ports import free_port
from launch.examples import examples
from tests.chatglm2.conftest import require_djl

Launch = subprocess.Popen[str]


@pytest.fixture(params=["", pytest.param("--djl", marks=pytest.mark.djl)], ids=["native", "djl"])
def launch(request: pytest.FixtureRequest) -> Iterator[Launch]:
    if request.param:
        require_djl()
    ports = ["--chat-port", str(free_port()), "--denoiser-port", str(free_port())]
    command = [sys.executable, "-m", "launch", *ports, *filter(None, [request.param])]
    env = os.environ | {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}  # nobody is there
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=env)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)


def read_until(process: subprocess.Popen[Any], printed: IO[str] | None, last: str) -> str:
    """What it prints up to the line `last`; kills it after 4 minutes, so that this ends."""
    alarm = threading.Timer(240, process.kill)
    alarm.start()
    assert printed is not None
    lines = []
    for line in printed:
        lines.append(line)
        if last in line:
            break
    alarm.cancel()
    return "".join(lines)


def test_both_services_answer_the_printed_curl_lines_and_ctrl_c_stops_them(launch: Launch) -> None:
    printed = read_until(launch, launch.stdout, "Stop both")
    commands = re.findall(r"^  (curl .*?)\n\n", printed, re.DOTALL | re.MULTILINE)
    assert len(commands) == 2, printed
    chat, denoiser = (
        subprocess.run(shlex.split(command.replace("\\\n", "")), capture_output=True, text=True, check=True).stdout
        for command in commands
    )
    assert '"history"' in chat
    assert '"shape":[1,384]' in denoiser.replace(" ", "")
    os.kill(launch.pid, signal.SIGINT)
    rest, _ = launch.communicate(timeout=60)
    assert launch.returncode == 0, rest
    for port in re.findall(r"localhost:(\d+)", printed):
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://localhost:{port}/ping")


def test_a_shell_s_background_where_ctrl_c_is_ignored_changes_nothing() -> None:
    script = "import signal; from launch.__main__ import Stop; stop = Stop(); stop.listen(); signal.raise_signal(2)"
    command = f"trap '' INT; exec {shlex.quote(sys.executable)} -c {shlex.quote(script + '; assert stop.told')}"
    subprocess.run(["/bin/sh", "-c", command], check=True)


def test_ctrl_c_while_the_models_are_prepared_ends_it_without_interrupting_python() -> None:
    command = [sys.executable, "-m", "launch", "--chat-port", str(free_port()), "--denoiser-port", str(free_port())]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        launcher = psutil.Process(process.pid)
        while not (preparing := [child for child in launcher.children() if "prepare" in child.cmdline()]):
            time.sleep(0.01)
        group = os.getpgid(preparing[0].pid)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert group != process.pid, "a terminal sends Ctrl-C to a process group"


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_a_closed_terminal_or_pipe_and_signals_in_each_other_s_way_end_both(terminal: bool) -> None:
    ports = [free_port(), free_port()]
    command = [sys.executable, "-m", "launch", "--chat-port", str(ports[0]), "--denoiser-port", str(ports[1])]
    ours, theirs = os.openpty() if terminal else os.pipe()
    session = ["setsid", "--ctty"] if terminal else ["setsid"]  # what is closed is the terminal of the session
    with subprocess.Popen([*session, *command], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        with os.fdopen(ours) as printed:
            read_until(process, printed, "answers" if terminal else "starting")
        if terminal:
            for _ in range(2):
                os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 0
    for port in ports:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://localhost:{port}/ping")


def test_logs_that_cannot_be_written_are_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    command = [sys.executable, "-m", "launch", "--chat-port", str(free_port()), "--denoiser-port", str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("logs/chat.log cannot be written")
    assert done.stderr.count("\n") == 1


def test_the_curl_lines_bring_the_key_and_pass_by_a_proxy() -> None:
    plain, keyed = examples(1, 2, {}), examples(1, 2, {"API_KEY": "secret", "all_proxy": "http://127.0.0.1:9"})
    assert "Authorization" not in plain
    assert "noproxy" not in plain
    assert keyed.count('--noproxy localhost -H "Authorization: Bearer $API_KEY" localhost') == 2
    assert "secret" not in keyed


def test_taken_port_is_said_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "launch", "--chat-port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"port {port} for chat is not free" in done.stderr
    assert "CHAT_PORT" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("ports", "said"),
    [(["--chat-port", "70000"], "65535"), (["--denoiser-port", "8080"], "8080 is given to both")],
)
def test_ports_that_cannot_be_are_said_before_anything_starts(ports: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, "-m", "launch", *ports], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_make_passes_on_the_ports_that_are_given() -> None:
    make = ["make", "--no-print-directory", "--dry-run", "serve", "CHAT_PORT=", "DENOISER_PORT=8001"]
    done = subprocess.run(make, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert done.stdout.split("-m launch")[1].split() == ["--denoiser-port", "8001"]
