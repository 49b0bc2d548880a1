"""`make serve` as a user meets it: both services, curl lines that work as pasted, Ctrl-C, a taken port."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest

from bench.ports import free_port
from tests.chatglm2.conftest import require_djl

Launch = subprocess.Popen[str]


@pytest.fixture(params=["", pytest.param("--djl", marks=pytest.mark.djl)], ids=["native", "djl"])
def launch(request: pytest.FixtureRequest) -> Iterator[Launch]:
    if request.param:
        require_djl()
    ports = ["--chat-port", str(free_port()), "--denoiser-port", str(free_port())]
    command = [sys.executable, "-m", "launch", *ports, *filter(None, [request.param])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)


def read_until(process: Launch, last: str) -> str:
    """What it prints up to the line `last`; kills it after 4 minutes, so that this ends."""
    alarm = threading.Timer(240, process.kill)
    alarm.start()
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if last in line:
            break
    alarm.cancel()
    return "".join(lines)


def test_both_services_answer_the_printed_curl_lines_and_ctrl_c_stops_them(launch: Launch) -> None:
    printed = read_until(launch, "Stop both")
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


def test_taken_port_is_said_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "launch", "--chat-port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"port {port} for chat is not free" in done.stderr
    assert "CHAT_PORT" in done.stderr
    assert done.stdout == ""
