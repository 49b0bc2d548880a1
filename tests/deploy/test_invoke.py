"""Questions to an endpoint whose container is a real chat service; its stream arrives cut anywhere."""

import contextlib
import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.errors import DeployError
from deploy.invoke import objects
from tests import servers
from tests.deploy import event_stream
from tests.deploy.conftest import Account, run
from tests.deploy.iam import refused


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """The chat service, as the container runs it."""
    with servers.chat("serve", tmp_path_factory.mktemp("chat") / "log") as server:
        yield server


@pytest.fixture
def endpoint(account: Account, chat: servers.Server) -> Account:
    """An account whose endpoints answer with the real service."""
    account.aws.service = chat.url
    return account


SHORT = json.dumps({"max_new_tokens": 6, "do_sample": False})


def test_the_whole_answer(endpoint: Account) -> None:
    done = endpoint.deploy(
        "endpoint", "invoke", "chat", "--text", "What is a data warehouse?", "--parameters", SHORT, "--json"
    )
    assert done.code == 0, done.err
    assert done.json["outputs"]
    assert done.json["history"] == [["What is a data warehouse?", done.json["outputs"]]]


def test_a_stream_is_the_same_answer_wherever_it_is_cut(endpoint: Account) -> None:
    text = "Say 你好 — naïve café."
    words = ("endpoint", "invoke", "chat", "--text", text, "--parameters", SHORT)
    whole = endpoint.deploy(*words, "--json").json["outputs"]
    for cut in (2, 7, 50):
        endpoint.aws.cut = cut
        done = endpoint.deploy(*words, "--stream")
        assert done.code == 0, done.err
        assert done.out == f"{whole}\n"
    assert refused(endpoint, endpoint.calls) == []


def test_a_question_from_a_file(endpoint: Account, tmp_path: Path) -> None:
    file = tmp_path / "question.txt"
    file.write_text("  What is\n\na cat?\n", encoding="utf-8")
    done = endpoint.deploy("endpoint", "invoke", "chat", "--file", str(file), "--parameters", SHORT, "--json")
    assert done.code == 0, done.err
    assert done.json["history"][0][0] == "What is\n\na cat?"


def test_what_the_container_refuses_is_shown(endpoint: Account) -> None:
    wrong = ("endpoint", "invoke", "chat", "--text", "Hi", "--parameters", '{"temprature": 1}')
    for words in (wrong, (*wrong, "--stream")):
        done = endpoint.deploy(*words)
        assert done.code == 1
        assert "djl-container-chat answered 400" in done.err
        assert "temperature" in done.err
        assert "Traceback" not in done.err


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server with that handler."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class BreaksOff(BaseHTTPRequestHandler):
    """Answers a piece, then what the contract says of a failure."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"token": {"text": "Hello"}}\n{"error": "the engine ended", "code": 503}\n')


def test_a_failure_in_the_middle_of_a_stream_is_the_endpoints(account: Account) -> None:
    with serving(BreaksOff) as account.aws.service:
        done = account.deploy("endpoint", "invoke", "chat", "--text", "Hi", "--stream")
    assert done.code == 1
    assert done.out == "Hello"
    assert "djl-container-chat answered 503: the engine ended" in done.err


class BreaksTheConnection(BaseHTTPRequestHandler):
    """Answers as SageMaker does, and is gone in the middle of it."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", event_stream.CONTENT_TYPE)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in event_stream.events([b'{"token": {"text": "Hello"}}\n'], 50):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))


@pytest.mark.usefixtures("account")
def test_a_connection_that_breaks_in_the_middle_of_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(BreaksTheConnection) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", address)
        words = ["endpoint", "invoke", "chat", "--text", "Hi", "--stream", "--region", "us-east-1"]
        done = run(words, boto3.Session())
    assert done.code == 1
    assert done.out == "Hello"
    assert "djl-container-chat broke off its answer" in done.err


class Lists(BaseHTTPRequestHandler):
    """Answers as some images do."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'[{"generated_text": "Hello"}]')


def test_an_answer_that_is_no_object_is_printed_as_it_is(account: Account) -> None:
    with serving(Lists) as account.aws.service:
        done = account.deploy("endpoint", "invoke", "chat", "--text", "Hi", "--json")
    assert done.code == 0, done.err
    assert done.json == [{"generated_text": "Hello"}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["chat", "--parameters", "[1]"], "not a JSON object"),
        (["chat", "--parameters", "{"], "not JSON"),
        (["chat", "--file", "/nowhere"], "name a UTF-8 text file"),
        (["denoiser", "--stream"], "only chat streams"),
    ],
)
def test_requests_that_cannot_be_made(account: Account, words: list[str], said: str) -> None:
    done = account.deploy("endpoint", "invoke", *words)
    assert done.code == 2
    assert said in done.err


TEXT = st.text('a\n"\\{é你😀', max_size=8)  # one to four bytes each, and what JSON escapes
VALUES = st.lists(st.dictionaries(TEXT, TEXT, max_size=2), max_size=5)


@settings(deadline=None, max_examples=50)
@given(VALUES, st.lists(st.integers(0, 200), max_size=30))
def test_lines_come_whole_however_they_are_cut(values: list[dict[str, str]], cuts: list[int]) -> None:
    data = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()
    ends = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    chunks = [data[start:end] for start, end in itertools.pairwise(ends)]
    assert list(objects(chunks)) == values


def test_a_stream_that_ends_in_the_middle_is_an_error() -> None:
    found = objects([b'{"a": 1}\n{"b"'])
    assert next(found) == {"a": 1}
    with pytest.raises(DeployError, match="ends in the middle"):
        next(found)


@pytest.mark.parametrize("line", [b"<html>\n", b'["no object"]\n'])
def test_a_line_of_a_stream_that_is_no_json_object_is_an_error(line: bytes) -> None:
    with pytest.raises(DeployError, match="no JSON"):
        next(objects([line]))
