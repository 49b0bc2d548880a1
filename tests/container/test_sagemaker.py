"""SageMaker's contract: `docker run IMAGE COMMAND`, models mounted read-only on /opt/ml/model, no way out."""

import json
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import docker
import httpx
import pytest
from docker.models.containers import Container
from docker.models.networks import Network

from tests.container.containers import address, await_ping, execute, mount, running

QUESTION = {"inputs": "What is a data warehouse?", "parameters": {"max_new_tokens": 8, "do_sample": False}}
LONG = {"inputs": "Write a long story.", "parameters": {"max_new_tokens": 40, "do_sample": False, "stream": True}}
TEXTS = {"texts": ["A data warehouse stores data from many sources."], "noise_level": 0.1}
REACH_OUT = "import socket; socket.create_connection(('192.0.2.1', 443), timeout=5)"
ASK = """
import sys, urllib.request
request = urllib.request.Request("http://127.0.0.1:" + sys.argv[1], sys.argv[2].encode() or None,
                                 {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""


def ask(container: Container, route: str, body: object = None) -> str:
    """A request from inside, for a container without any network."""
    data = json.dumps(body) if body else ""
    status, output = execute(container, "python3", "-c", ASK, route, data)
    assert status == 0, output
    return output


@pytest.mark.parametrize(
    ("command", "port", "body"), [("serve", 8080, QUESTION), ("denoiser", 8000, TEXTS)], ids=["serve", "denoiser"]
)
def test_answers_without_any_network_on_a_read_only_root(
    client: docker.DockerClient, models: Path, command: str, port: int, body: object
) -> None:
    options = {"network_mode": "none", "read_only": True, "tmpfs": {"/tmp": "exec"}, "cap_drop": ["ALL"]}
    with running(client, command, **mount(models, "/opt/ml/model"), **options) as container:
        await_healthy_inside(container, port)
        reply = json.loads(ask(container, f"{port}/invocations", body))
        assert "outputs" in reply or "denoised_embeddings" in reply


def await_healthy_inside(container: Container, port: int) -> None:
    script = "import sys, time, urllib.request\n"
    script += "while True:\n try:\n  sys.exit(urllib.request.urlopen(sys.argv[1]).status != 200)\n"
    script += " except OSError: time.sleep(0.2)\n"
    status, _ = execute(container, "timeout", "300", "python3", "-c", script, f"http://127.0.0.1:{port}/ping")
    assert status == 0, container.logs().decode()[-3000:]


def test_chat_finishes_its_request_on_sigterm_and_ends_with_0(
    client: docker.DockerClient, models: Path, closed: Network
) -> None:
    options = {"network": closed.name, "environment": {"SAGEMAKER_BIND_TO_PORT": "8181"}}
    with running(client, "serve", **options, **mount(models, "/opt/ml/model")) as container:
        url = address(container, 8181)
        await_ping(container, url)
        assert execute(container, "python3", "-c", REACH_OUT)[0] != 0
        with httpx.stream("POST", f"{url}/invocations", json=LONG, timeout=120) as response:
            lines = response.iter_lines()
            next(lines)
            stopping = stop(container)
            assert json.loads([*lines][-1])["usage"]["completion_tokens"] == 40
        stopping.join()
        assert container.wait()["StatusCode"] == 0


def test_serve_is_the_denoiser_where_the_endpoint_says_so(
    client: docker.DockerClient, models: Path, closed: Network
) -> None:
    """As the deploy commands set it: SageMaker knows no other command than `serve`."""
    environment = {"SERVICE": "denoiser", "PORT": "8080", "ENCODER_PATH": "/opt/ml/model/encoder"}
    with running(
        client, "serve", network=closed.name, environment=environment, **mount(models, "/opt/ml/model")
    ) as container:
        url = address(container, 8080)
        await_ping(container, url)
        assert httpx.post(f"{url}/invocations", json=TEXTS, timeout=60).json()["shape"] == [1, 384]


def stop(container: Container) -> threading.Thread:
    """SIGTERM, and after 30 seconds SIGKILL, which would end it with 137."""
    thread = threading.Thread(target=container.stop, kwargs={"timeout": 30})
    thread.start()
    return thread


def test_denoiser_finishes_its_request_on_sigterm_and_ends_with_0(
    client: docker.DockerClient, models: Path, closed: Network
) -> None:
    options = {"network": closed.name, "environment": {"SAGEMAKER_BIND_TO_PORT": "8181"}}
    with running(client, "denoiser", **options, **mount(models, "/opt/ml/model")) as container:
        url = address(container, 8181)
        await_ping(container, url)
        with request_half_sent(url, json.dumps(TEXTS).encode()) as (connection, rest):
            stopping = stop(container)
            await_refusal(url)
            connection.sendall(rest)
            assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 200")
        stopping.join()
        assert container.wait()["StatusCode"] == 0


class request_half_sent:  # noqa: N801 - a context manager
    """A request in flight for as long as a test wants: yields its connection, and the rest of its body."""

    def __init__(self, url: str, body: bytes) -> None:
        parts = urlsplit(url)
        self._connection = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60)
        head = f"POST /invocations HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
        self._connection.sendall(head.encode())
        assert self._connection.recv(1000).startswith(b"HTTP/1.1 100")  # the service waits for the body
        self._connection.sendall(body[:10])
        self._rest = body[10:]

    def __enter__(self) -> tuple[socket.socket, bytes]:
        return self._connection, self._rest

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def await_refusal(url: str) -> None:
    """Return when nobody listens any more, so when SIGTERM has arrived."""
    while True:
        try:
            httpx.get(f"{url}/ping", timeout=5)
        except httpx.ConnectError:
            return
        except httpx.HTTPError:
            continue


def test_key_in_a_secret_file_is_asked_for(
    client: docker.DockerClient, models: Path, closed: Network, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("a-key\n")
    options = mount(models, "/opt/ml/model")
    options["volumes"] |= mount(key, "/run/secrets/api_key")["volumes"]
    with running(client, "denoiser", network=closed.name, **options) as container:
        url = address(container, 8000)
        await_ping(container, url)
        assert httpx.post(f"{url}/invocations", json=TEXTS, timeout=60).status_code == 401
        given = {"Authorization": "Bearer a-key"}
        assert httpx.post(f"{url}/invocations", json=TEXTS, headers=given, timeout=60).status_code == 200
