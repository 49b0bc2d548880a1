"""What the FastAPI adapter does beside the contract: limits, cancelled requests, an orderly end, a taken port."""

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from tests import servers

LONG = {"inputs": "Write a long story.", "parameters": {"max_new_tokens": 400, "do_sample": False, "details": True}}
SHORT = {"inputs": "Hi", "parameters": {"max_new_tokens": 2, "do_sample": False}}
ONE_PLACE = {"CHAT_MAX_RUNNING": "1", "CHAT_MAX_WAITING": "0"}


def test_full_queue_refuses_at_once_and_a_client_that_leaves_frees_its_place(tmp_path: Path) -> None:
    with servers.chat("serve", tmp_path / "log", ONE_PLACE) as chat:
        stream = LONG | {"parameters": {"max_new_tokens": 4000, "do_sample": False, "stream": True}}
        with httpx.stream("POST", f"{chat.url}/invocations", json=stream, timeout=60) as response:
            assert json.loads(next(response.iter_lines()))["delta"]
            refused = chat.post("/invocations", SHORT)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) > 0
            assert refused.json()["code"] == 429
        assert status_in_time(chat, SHORT) == 200
        leave_early(chat, LONG)
        assert status_in_time(chat, SHORT) == 200


def status_in_time(chat: servers.Server, body: object) -> int:
    """The first status other than 429, or 429 if a place stays taken for 5 s."""
    limit = time.monotonic() + 5
    while (status := chat.post("/invocations", body).status_code) == 429 and time.monotonic() < limit:
        time.sleep(0.1)
    return status


def leave_early(chat: servers.Server, body: object) -> None:
    """Send a request and go away without reading its reply."""
    content = json.dumps(body).encode()
    host, port = chat.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = ["POST /invocations HTTP/1.1", "Host: x", f"Content-Length: {len(content)}", "", ""]
        connection.sendall("\r\n".join(head).encode() + content)
        time.sleep(1)


def test_deadline_is_504(tmp_path: Path) -> None:
    with servers.chat("serve", tmp_path / "log", {"CHAT_DEADLINE_SECONDS": "0.5"}) as chat:
        late = chat.post("/invocations", LONG)
        assert late.status_code == 504
        assert late.json()["code"] == 504
        assert chat.post("/invocations", SHORT).status_code == 200


def test_api_key_is_asked_for_everywhere_but_ping(tmp_path: Path) -> None:
    with servers.chat("serve", tmp_path / "log", {"API_KEY": "secret"}) as chat:
        assert chat.healthy()
        assert chat.post("/invocations", SHORT).status_code == 401
        assert chat.post("/invocations", SHORT, headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert chat.post("/invocations", SHORT, headers={"Authorization": "Bearer secret"}).status_code == 200
        assert "secret" not in chat.log.read_text()


def test_sigterm_lets_a_running_request_finish(tmp_path: Path) -> None:
    body = LONG | {"parameters": LONG["parameters"] | {"max_new_tokens": 60}}  # type: ignore[operator]
    with servers.chat("serve", tmp_path / "log") as chat:
        replies: list[httpx.Response] = []
        request = threading.Thread(target=lambda: replies.append(chat.post("/invocations", body)))
        request.start()
        time.sleep(1)
        chat.process.terminate()
        request.join()
        assert replies[0].json()["usage"]["completion_tokens"] == 60
        assert chat.process.wait(40) == 0


def test_logs_are_json_lines_without_prompts(tmp_path: Path) -> None:
    with servers.chat("serve", tmp_path / "log") as chat:
        chat.post("/invocations", SHORT | {"inputs": "xylophone?"})
        events = [json.loads(line) for line in chat.log.read_text().splitlines() if line.startswith("{")]
    answered = next(event for event in events if event["event"] == "answered")
    assert answered["request_id"]
    assert "xylophone" not in chat.log.read_text()


def failing(*arguments: str) -> str:
    """What a command that must fail prints."""
    done = subprocess.run([sys.executable, "-m", "chatglm2", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr


def test_taken_port_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = failing("serve", "--port", str(port))
    assert message.count("\n") == 1
    assert f"127.0.0.1:{port}" in message
    assert "--port" in message


def test_missing_model_is_said_in_one_line(tmp_path: Path) -> None:
    message = failing("serve", "--port", str(servers.free_port()), "--model", str(tmp_path / "none"))
    assert message.count("\n") == 1
    assert "none" in message


def test_folder_that_is_no_model_is_said_in_one_line(tmp_path: Path) -> None:
    assert "config.json" in failing("prepare", "--model", str(tmp_path))


def test_unusable_setting_is_said_in_one_line() -> None:
    assert failing("serve", "--dtype", "float3").startswith("chatglm2: setting dtype")
