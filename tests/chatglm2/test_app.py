"""What the FastAPI adapter does beside the contract: limits, cancelled requests, an orderly end, a taken port."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from bench.ports import free_port
from chatglm2.errors import BadRequest, SetupError
from chatglm2.prompt import Message, Prompter
from chatglm2.settings import Settings
from chatglm2.startup import find_model, load
from tests import servers
from tests.chatglm2.tiny import TinyService, save_tiny_model

LONG = {"inputs": "Write a long story.", "parameters": {"max_new_tokens": 400, "do_sample": False, "details": True}}
SHORT = {"inputs": "Hi", "parameters": {"max_new_tokens": 2, "do_sample": False}}
KEY = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A service with one place and an API key."""
    env = {"CHAT_MAX_RUNNING": "1", "CHAT_MAX_WAITING": "0", "API_KEY": " secret\r"}
    env["CHAT_SERVED_MODEL_NAME"] = "MyModel"
    with servers.chat("serve", tmp_path_factory.mktemp("strict") / "log", env) as server:
        yield server


def test_full_queue_refuses_at_once_and_a_client_that_leaves_frees_its_place(strict: servers.Server) -> None:
    body = LONG | {"parameters": {"max_new_tokens": 4000, "do_sample": False, "stream": True}}
    with httpx.stream("POST", f"{strict.url}/invocations", json=body, headers=KEY, timeout=60) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines))["delta"]
        refused = strict.post("/invocations", SHORT, headers=KEY)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["code"] == 429
    assert status_in_time(strict, SHORT) == 200
    leave_early(strict, LONG)
    assert status_in_time(strict, SHORT) == 200


def status_in_time(chat: servers.Server, body: object) -> int:
    """The first status other than 429, or 429 if a place stays taken for a minute."""
    limit = time.monotonic() + 60
    while (status := chat.post("/invocations", body, headers=KEY).status_code) == 429 and time.monotonic() < limit:
        time.sleep(0.1)
    return status


def leave_early(chat: servers.Server, body: object, promised: int = 0) -> None:
    """Send a request, or the first part of one of `promised` bytes, and go away without reading its reply."""
    content = json.dumps(body).encode()
    with chat.connect() as connection:
        connection.sendall(request_head(promised or len(content)) + content)
        time.sleep(1)


def request_head(length: int, *more: str) -> bytes:
    """Of a request whose body has so many bytes."""
    lines = ["POST /invocations HTTP/1.1", "Host: x", "Authorization: Bearer secret", f"Content-Length: {length}"]
    return "\r\n".join([*lines, *more, "", ""]).encode()


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
@pytest.mark.parametrize("cut", ["POST", "UPG", "HTTP2-Settings: AAEAAEAA\r\n\r", "{"])
def test_an_offer_to_go_on_in_another_protocol_is_ignored(strict: servers.Server, upgrade: str, cut: str) -> None:
    content = json.dumps(SHORT).encode()
    offer = ("Connection: Upgrade, HTTP2-Settings", f"UPGRADE: {upgrade}", "HTTP2-Settings: AAEAAEAA")
    first, last = (request_head(len(content), *offer) + content).split(cut.encode(), 1)
    with strict.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for line_ends in (b"", b"\r\n\r\n"):
            connection.sendall(line_ends + first + cut.encode())
            time.sleep(0.1)
            connection.sendall(last)
            reply = http.client.HTTPResponse(connection)
            reply.begin()
            assert (reply.status, "outputs" in json.loads(reply.read())) == (200, True)


@pytest.mark.parametrize("endless", [b"X-Ab: v\r\n", b"x"], ids=["many headers", "one long header"])
def test_headers_without_end_are_refused(strict: servers.Server, endless: bytes) -> None:
    with strict.connect() as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"GET /ping HTTP/1.1\r\nX-A: " + endless * (60_000 // len(endless)))
        connection.sendall(endless * (200_000 // len(endless)))
        assert b"the headers are longer" in connection.recv(10_000)
    assert strict.healthy()


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\0", b"GET / HTTP/1.1\r\nUp\0"])
def test_what_is_no_http_gets_the_contract_s_reply(strict: servers.Server, sent: bytes) -> None:
    with strict.connect() as connection:
        connection.sendall(sent)
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        assert (reply.status, json.loads(reply.read())["code"]) == (400, 400)


@pytest.mark.parametrize("stream", [True, False])
def test_replies_over_http_1_0_have_no_chunks(strict: servers.Server, stream: bool) -> None:
    content = json.dumps(SHORT | {"parameters": {"max_new_tokens": 2, "stream": stream}}).encode()
    with strict.connect() as connection:
        connection.sendall(request_head(len(content)).replace(b"HTTP/1.1", b"HTTP/1.0") + content)
        head, body = b"".join(iter(lambda: connection.recv(10_000), b"")).split(b"\r\n\r\n")
    assert (b"transfer-encoding" in head, b"content-length" in head) == (False, not stream)
    assert json.loads(body.splitlines()[-1])["history"]


def test_a_client_that_leaves_while_it_sends_is_no_failure(strict: servers.Server) -> None:
    leave_early(strict, SHORT, promised=1000)
    assert status_in_time(strict, SHORT) == 200
    assert "Traceback" not in strict.log.read_text()


def test_clients_that_do_not_read_give_up_their_places_at_the_deadline_and_at_the_end(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    env = {"CHAT_MAX_RUNNING": "1", "CHAT_MAX_WAITING": "0", "CHAT_DEADLINE_SECONDS": "5", "CHAT_DRAIN_SECONDS": "1"}
    with servers.chat("serve", tmp_path / "log", env, "--model", str(tmp_path / "model")) as chat:
        with unread_stream(chat):
            servers.wait_until(lambda: chat.post("/invocations", SHORT).status_code == 429)
            assert status_in_time(chat, SHORT) == 200
        with unread_stream(chat):
            servers.wait_until(lambda: chat.post("/invocations", SHORT).status_code == 429)
            chat.process.terminate()
            assert chat.process.wait(40) == 0


@contextlib.contextmanager
def unread_stream(chat: servers.Server) -> Iterator[None]:
    """A client that asks for more than fits on the way to it, and reads nothing."""
    content = json.dumps(LONG | {"parameters": {"max_new_tokens": 3000, "stream": True}}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", int(chat.url.rpartition(":")[2])))
        connection.sendall(request_head(len(content)) + content)
        yield


def test_a_body_that_does_not_arrive_is_504(tmp_path: Path) -> None:
    with (
        servers.chat("serve", tmp_path / "log", {"CHAT_DEADLINE_SECONDS": "1"}) as chat,
        chat.connect() as connection,
    ):
        connection.sendall(request_head(1000) + b"{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 504")


def test_a_body_half_read_at_the_shutdown_is_503(tmp_path: Path) -> None:
    with servers.chat("serve", tmp_path / "log") as chat, chat.connect() as connection:
        connection.sendall(request_head(1000) + b"{")
        time.sleep(1)
        chat.process.terminate()
        assert connection.recv(1000).startswith(b"HTTP/1.1 503")
        assert chat.process.wait(20) == 0
        assert "Traceback" not in chat.log.read_text()


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    with servers.chat("serve", tmp_path / "log") as chat, ThreadPoolExecutor() as client:
        body = LONG | {"parameters": {"max_new_tokens": 4000, "do_sample": False}}
        asked = client.submit(chat.post, "/invocations", body)
        time.sleep(2)
        for _ in range(2):
            chat.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        assert asked.result().status_code == 503
        assert chat.process.wait(20) == 0


def test_deadline_is_504() -> None:
    service = TinyService(deadline_seconds=1.0)
    late = service.post(
        json.dumps({"inputs": "Hi", "parameters": {"max_new_tokens": 4000, "do_sample": False}}).encode()
    )
    assert late.status_code == 504
    assert late.json()["code"] == 504
    assert late.headers["x-should-retry"] == "false"
    messages = [{"role": "user", "content": "Hi"}]
    stream = service.post(json.dumps({"messages": messages, "stream": True, "temperature": 0}).encode()).text
    error = json.loads(stream.strip().rsplit("data: ", 1)[-1])["error"]
    assert error == {"message": late.json()["error"], "code": 504}
    short = json.dumps(SHORT).encode()  # has the same deadline
    assert any(service.post(short).status_code == 200 for _ in range(30))
    service.close()


def test_api_key_is_asked_for_everywhere_but_ping(strict: servers.Server) -> None:
    strict.wait_healthy()
    assert strict.post("/invocations", SHORT).status_code == 401
    for wrong in ("Bearer wrong", "Bearer", "secret", "Basic secret"):
        assert strict.post("/invocations", SHORT, headers={"Authorization": wrong}).status_code == 401
    for right in ("Bearer secret", "bearer secret"):
        assert strict.post("/invocations", SHORT, headers={"Authorization": right}).status_code == 200


def test_the_list_of_models_names_the_one_that_is_served(strict: servers.Server) -> None:
    assert strict.get("/v1/models").status_code == 401
    (model,) = strict.get("/v1/models", headers=KEY).json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("MyModel", "model", 8192)


@pytest.mark.parametrize(
    ("setting", "listed", "known"),
    [
        ({"served_model_name": "MyModel"}, "MyModel", ["mymodel"]),
        ({"model": "/models/tiny/"}, "tiny", ["tiny"]),
        ({"model": "THUDM/chatglm2-6b"}, "THUDM/chatglm2-6b", ["thudm/chatglm2-6b"]),
        ({"model": "/opt/ml/model"}, "chatglm2", []),
        ({}, "smollm2-135m-instruct", ["smollm2-135m-instruct"]),
    ],
)
def test_a_model_is_listed_by_its_own_name(setting: dict[str, str], listed: str, known: list[str]) -> None:
    settings = Settings(**setting)  # type: ignore[arg-type]
    assert (settings.served_name, settings.model_names) == (listed, ["chatglm2", "chatglm2-6b", *known])


def test_a_mounted_model_is_listed_by_the_projects_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert Settings(mounted_model=tmp_path).served_name == "chatglm2"


def test_ping_answers_head_too(strict: servers.Server) -> None:
    assert httpx.head(f"{strict.url}/ping").status_code == 200


def test_logs_are_json_lines_without_prompts_and_keys(strict: servers.Server) -> None:
    strict.post("/invocations", SHORT | {"inputs": "xylophone?"}, headers=KEY)
    printed = strict.log.read_text()
    events = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert next(event for event in events if event["event"] == "answered")["request_id"]
    assert "xylophone" not in printed
    assert "secret" not in printed


def test_sigterm_lets_a_running_request_finish(tmp_path: Path) -> None:
    body = LONG | {"parameters": LONG["parameters"] | {"max_new_tokens": 30, "stream": True}}  # type: ignore[operator]
    with servers.chat("serve", tmp_path / "log") as chat:
        with httpx.stream("POST", f"{chat.url}/invocations", json=body, timeout=60) as response:
            lines = response.iter_lines()
            assert json.loads(next(lines))["delta"]
            chat.process.terminate()
            assert json.loads([*lines][-1])["usage"]["completion_tokens"] == 30
        assert chat.process.wait(40) == 0


def test_what_takes_longer_than_the_shutdown_ends_with_503(tmp_path: Path) -> None:
    choice = {"max_new_tokens": 4000, "do_sample": False, "repetition_penalty": 2.0}
    streamed = LONG | {"parameters": choice | {"stream": True}}
    with servers.chat("serve", tmp_path / "log", {"CHAT_DRAIN_SECONDS": "1"}) as chat, ThreadPoolExecutor() as client:
        whole = client.submit(chat.post, "/invocations", LONG | {"parameters": choice})
        with httpx.stream("POST", f"{chat.url}/invocations", json=streamed, timeout=60) as response:
            lines = response.iter_lines()
            assert json.loads(next(lines))["delta"]
            chat.process.terminate()
            assert json.loads([*lines][-1])["code"] == 503
        assert whole.result().status_code == whole.result().json()["code"] == 503
        assert chat.process.wait(40) == 0
        assert "Traceback" not in chat.log.read_text()


def test_a_route_with_a_slash_more_is_404(strict: servers.Server) -> None:
    assert strict.post("/invocations/", SHORT, headers=KEY).json()["code"] == 404


def test_another_server_cannot_take_the_port_while_the_model_loads(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "chatglm2", "serve", "--port", str(port)]
    with servers.started(command, tmp_path / "log", port) as chat:
        servers.wait_until(lambda: listens(port))
        assert f"127.0.0.1:{port}" in failing("serve", "--port", str(port))
        chat.wait_healthy()


def listens(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_more_answers_than_there_are_places_are_refused_for_good(strict: servers.Server) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "n": 2}
    refused = strict.post("/v1/chat/completions", body, headers=KEY)
    assert refused.status_code == 400
    assert "n: got 2" in refused.json()["error"]


def failing(*arguments: str, **env: str) -> str:
    """What a command that must fail prints."""
    command = [sys.executable, "-m", "chatglm2", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | env, timeout=280)
    assert done.returncode == 1
    return done.stderr


def test_taken_port_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = failing("serve", "--port", str(port))
    assert message.count("\n") == 1
    assert f"127.0.0.1:{port}" in message
    assert "--port" in message


def test_ipv6_behind_djl_is_refused_in_one_line() -> None:
    message = failing("djl", "--host", "::1")
    assert message.count("\n") == 1
    assert "IPv6" in message


def test_taken_port_for_metrics_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        message = failing("serve", "--port", str(free_port()), CHAT_METRICS_PORT=str(taken.getsockname()[1]))
    assert message.count("\n") == 1
    assert "CHAT_METRICS_PORT" in message


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_between_load_and_service_ends_the_process(tmp_path: Path, number: signal.Signals) -> None:
    save_tiny_model(tmp_path / "model")
    command = [sys.executable, "-m", "chatglm2", "serve", "--model", str(tmp_path / "model"), "--port", "0"]
    with servers.started(command, tmp_path / "log", 0) as chat:
        servers.wait_until(lambda: "model loaded" in chat.log.read_text())
        chat.process.send_signal(number)
        assert chat.process.wait(40) in (0, 128 + number)


def test_missing_model_is_said_in_one_line(tmp_path: Path) -> None:
    message = failing("serve", "--port", str(free_port()), "--model", str(tmp_path / "none"))
    assert message.count("\n") == 1
    assert "none" in message


def test_folder_that_is_no_model_is_said_in_one_line(tmp_path: Path) -> None:
    assert "config.json" in failing("prepare", "--model", str(tmp_path))


def test_damaged_weights_are_said_in_one_line(tmp_path: Path) -> None:
    shutil.copytree(find_model(Settings()), tmp_path / "model")
    os.truncate(tmp_path / "model" / "model.safetensors", 1000)
    message = failing("serve", "--port", str(free_port()), "--model", str(tmp_path / "model"))
    assert message.count("\n") == 1
    assert "cannot be loaded" in message


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.json", "[]", "TypeError"),
        ("config.json", '{"model_type": "llama", "num_attention_heads": "nine"}', "num_attention_heads"),
        ("config.json", '{"model_type": "llama", "num_attention_heads": 0}', "ZeroDivisionError"),
        ("config.json", '{"model_type": "llama", "num_hidden_layers": 1, "vocab_size": 3}', "RuntimeError"),
        ("tokenizer.json", '{"version": "1.0"}', "KeyError: 'added_tokens'"),
    ],
)
def test_a_broken_model_folder_is_said_in_one_line(tmp_path: Path, file: str, content: str, reason: str) -> None:
    save_tiny_model(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(SetupError, match=reason) as refusal:
        load(Settings(model=str(tmp_path)))
    assert "\n" not in str(refusal.value)


def test_missing_tensors_are_said_by_name(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    message = failing("serve", "--port", str(free_port()), "--model", str(tmp_path))
    assert "1 tensors missing, such as model.norm.weight" in message.splitlines()[-1]


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    save_tiny_model(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(SetupError, match="no chat template"):
        load(Settings(model=str(tmp_path)))


def test_what_a_chat_template_refuses_is_a_bad_request_with_its_reason() -> None:
    tokenizer = AutoTokenizer.from_pretrained(find_model(Settings()), local_files_only=True)
    tokenizer.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}Hi"
    with pytest.raises(BadRequest, match=r"messages: .* them: No system"):
        Prompter(tokenizer).encode([Message("system", "Be short.")])
    tokenizer.chat_template = (
        "{% if messages[1] is not defined %}{{ raise_exception('No: ' ~ messages[0].content) }}{% endif %}"
    )
    with pytest.raises(BadRequest, match=r"them$"):
        Prompter(tokenizer).encode([Message("user", "my secret")])


def test_unusable_setting_is_said_in_one_line() -> None:
    assert failing("serve", "--dtype", "float3").startswith("chatglm2: setting dtype")
    assert "API_KEY" in failing("serve", API_KEY=" \r")
    assert "finite" in failing("serve", CHAT_DEADLINE_SECONDS="inf")
    assert failing("serve", CHAT_EXECUTOR="Ray").startswith("chatglm2: CHAT_EXECUTOR: ")
