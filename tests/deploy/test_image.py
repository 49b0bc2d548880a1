"""The image's tag, and what a dry run shows of build and push. Docker itself is in tests/container."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.errors import ConfigError
from deploy.image import source_checksum
from deploy.settings import Image
from tests.deploy.conftest import Account, push_image


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY hello /\n")
    (tmp_path / "hello").write_text("hello")
    (tmp_path / ".dockerignore").write_text("# not these\nnotes\n*.log\n")
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_the_tag_changes_with_what_goes_into_the_image_and_with_nothing_else(context: Path) -> None:
    tag = source_checksum(Image(context=context))
    (context / "notes" / "today").write_text("ignored")
    (context / "build.log").write_text("ignored")
    assert source_checksum(Image(context=context)) == tag
    assert source_checksum(Image(context=context, build_args={"BASE": "other"})) != tag
    (context / "hello").write_text("hello, world")
    assert source_checksum(Image(context=context)) != tag


def test_a_missing_dockerfile_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no Dockerfile in"):
        source_checksum(Image(context=tmp_path))


def test_a_dry_run_shows_build_and_push(account: Account, context: Path) -> None:
    tag = source_checksum(Image(context=context, build_args={"BASE": "b"}))
    name = f"123456789012.dkr.ecr.us-east-1.amazonaws.com/djl-container:{tag}"
    settings = {"image__tag": "", "image__context": str(context), "image__build_args": '{"BASE": "b"}'}
    done = account.deploy("image", "build", "--dry-run", **settings)
    options = ["--platform", "linux/amd64", "--build-arg", "REQUIREMENTS=vllm", "--build-arg", "BASE=b"]
    assert done.json == [{"command": ["docker", "build", "--tag", name, *options, str(context)]}]
    done = account.deploy("image", "build", "--dry-run", **settings, image__build_network="host")
    assert done.json[0]["command"][6:8] == ["--network", "host"]
    account.client("ecr").delete_repository(repositoryName="djl-container", force=True)
    done = account.deploy("image", "push", "--dry-run", **settings)
    assert [entry.get("operation", "push") for entry in done.json] == ["CreateRepository", "push"]
    assert done.json[0]["parameters"]["imageTagMutability"] == "IMMUTABLE"
    assert done.json[1] == {"push": name}


def test_a_source_that_changes_during_a_run_changes_no_address_of_it(
    account: Account, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(command: list[str], env: dict[str, str]) -> None:
        assert env["BUILDX_NO_DEFAULT_ATTESTATIONS"] == "1"  # SageMaker takes no index of manifests
        push_image(account, command[command.index("--tag") + 1].rpartition(":")[2])
        (context / "hello").write_text("edited while Docker builds")

    monkeypatch.setattr("deploy.journal._run", build)
    done = account.deploy("up", "--json", image__tag="", image__context=str(context), chat__enabled="false")
    assert done.code == 0, done.err
    assert done.json["djl-container-denoiser"] == "created"


def test_a_docker_that_ends_while_it_pushes_is_said(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that answers the first question and is gone by the next."""

    class Dies(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/version":
                return
            body = b'{"ApiVersion": "1.41"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Dies) as daemon:
        threading.Thread(target=daemon.serve_forever, daemon=True).start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{daemon.server_port}")
        done = account.deploy("image", "push", image__tag="v9")
        daemon.shutdown()
    assert done.code == 1
    assert "deploy: Docker broke off while pushing" in done.err


def test_an_image_that_is_there_is_not_pushed_again(account: Account) -> None:
    done = account.deploy("image", "push", "--dry-run")
    assert done.json == []
    assert "pushed already" in done.err
