"""`deploy` with real Docker and a real registry: build, push, the whole way, and what a registry refuses."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import docker
import httpx
import pytest

from tests.container.daemon import builder
from tests.container.registry import registry
from tests.deploy.conftest import Account, MakeAccount, aws_server, checkpoint, encoder, make_account, recorded, things
from tests.deploy.stand_in import LOGIN, Failure
from tests.servers import free_port

__all__ = ["aws_server", "checkpoint", "encoder", "make_account", "recorded"]  # fixtures
pytestmark = pytest.mark.container


@pytest.fixture(scope="module")
def docker_client(arguments: dict[str, str]) -> Iterator[docker.DockerClient]:  # noqa: ARG001 - it has the daemon
    """The suite's daemon; first on the path is a docker command that can build in it."""
    client = docker.from_env()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(builder()).parent}:{os.environ['PATH']}")
        yield client
    client.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """The smallest image: nothing is fetched to build it."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nARG WORDS=none\nLABEL words=${WORDS}\nCOPY hello /\n")
    (tmp_path / "hello").write_text("hello")
    return tmp_path


@pytest.fixture
def account(make_account: MakeAccount, docker_client: docker.DockerClient, address: str, context: Path) -> Account:
    """An account whose ECR is the registry, with no repository yet."""
    assert docker_client.ping()
    account = make_account("us-east-1")
    account.client("ecr").delete_repository(repositoryName="djl-container", force=True)
    account.aws.registry = f"http://{address}"
    image = {"image.registry": address, "image.tag": "", "image.context": str(context)}
    account.settings |= {**image, "image.build_args": json.dumps({"WORDS": "here"})}
    return account


def tags(address: str) -> list[str]:
    """The tags in the registry."""
    found = httpx.get(f"http://{address}/v2/djl-container/tags/list", auth=LOGIN)
    return list(found.json().get("tags") or [])


def test_up_builds_and_pushes_once_and_down_leaves_nothing(account: Account, address: str) -> None:
    dry = account.deploy("up", "--dry-run")
    assert dry.code == 0, dry.err
    done = account.deploy("up", "--json")
    assert done.code == 0, done.err
    name = next(entry["push"] for entry in dry.json if "push" in entry)
    assert tags(address) == [name.rpartition(":")[2]]
    created = [call[2] for call in account.calls if call[1] == "CreateModel"]
    assert {model["PrimaryContainer"]["Image"] for model in created} == {name}
    assert "pushing: " in done.err
    assert account.deploy("up", "--json").json["changed"] == "nothing"
    down = account.deploy("down", "--yes")
    assert down.code == 0, down.err
    assert not any(things(account).values())


def test_an_up_cut_off_between_build_and_push_goes_on(account: Account, address: str, context: Path) -> None:
    (context / "hello").write_text("hello again")
    account.aws.failures["CreateRepository"] = Failure("AccessDeniedException", "not now", times=9)
    cut = account.deploy("up")
    assert cut.code == 1
    assert "not now" in cut.err
    account.aws.failures.clear()
    before = tags(address)
    assert account.deploy("up").code == 0
    assert len(tags(address)) == len(before) + 1


def test_an_image_that_is_not_built_is_not_pushed(account: Account) -> None:
    done = account.deploy("image", "push", image__tag="never-built")
    assert done.code == 2
    assert "image build" in done.err


def test_a_refused_push_is_said(account: Account, address: str, context: Path) -> None:
    """Docker's SDK raises nothing then: the error is one of the events."""
    (context / "hello").write_text("refused")
    assert account.deploy("image", "build").code == 0
    account.aws.token = "QVdTOndyb25n"  # AWS:wrong
    before = tags(address)
    done = account.deploy("image", "push")
    assert done.code == 1
    assert "failed: " in done.err
    assert "Traceback" not in done.err
    assert tags(address) == before


def test_a_build_that_fails_is_said(account: Account, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY missing /\n")
    done = account.deploy("image", "build")
    assert done.code == 1
    assert "ended with status" in done.err


def test_without_docker_it_says_so(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    assert account.deploy("image", "build").code == 0
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    done = account.deploy("image", "push", image__tag="v1")
    assert done.code == 1
    assert "cannot reach Docker" in done.err
