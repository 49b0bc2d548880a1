"""`deploy` with real Docker and a real registry: build, push, the whole way, and what a registry refuses."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
from docker.models.networks import Network

from bench.ports import free_port
from tests.container.containers import address as container_address
from tests.container.containers import await_ping, mount, running_image
from tests.container.daemon import CA, IMAGE, REPOSITORY, builder
from tests.container.registry import registry
from tests.deploy.conftest import (
    Account,
    MakeAccount,
    aws_server,
    checkpoint,
    encoder,
    make_account,
    recorded,
    surroundings,
    things,
)
from tests.deploy.stand_in import LOGIN, Failure

__all__ = ["aws_server", "checkpoint", "encoder", "make_account", "recorded", "surroundings"]  # fixtures
pytestmark = pytest.mark.container
SHORT = json.dumps({"max_new_tokens": 12, "do_sample": False})


@pytest.fixture(scope="module")
def docker_client(arguments: dict[str, str]) -> Iterator[docker.DockerClient]:  # noqa: ARG001 - it has the daemon
    """The suite's daemon; first on the path is a docker command that can build in it."""
    client = docker.from_env()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(builder()).parent}:{os.environ['PATH']}")
        yield client
    client.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with registry() as address:
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
    return list(ask_registry(address, "tags/list").get("tags") or [])


def ask_registry(address: str, what: str) -> Any:
    """What the registry knows of the repository."""
    accept = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
    return httpx.get(f"http://{address}/v2/djl-container/{what}", auth=LOGIN, headers=accept, timeout=60).json()


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


def test_an_up_cut_off_around_build_and_push_goes_on(account: Account, address: str, context: Path) -> None:
    """After the build, with and without a repository; before the push, and after it."""
    (context / "hello").write_text("hello again")
    before = tags(address)
    cuts = [("CreateRepository", False), ("CreateRepository", True), ("GetAuthorizationToken", False)]
    for step, late in [*cuts, ("CreateModel", False)]:
        assert tags(address) == before
        account.aws.failures[step] = Failure("AccessDeniedException", "not now", times=9, late=late)
        cut = account.deploy("up")
        assert cut.code == 1
        assert f"{step}: AccessDeniedException: not now" in cut.err
        account.aws.failures.clear()
    assert len(tags(address)) == len(before) + 1
    done = account.deploy("up", "--json")
    assert done.code == 0, done.err
    assert "push" not in done.json["changed"]


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


@pytest.fixture
def real(account: Account, arguments: dict[str, str], models: Path) -> Account:
    """The account, with the project's own Dockerfile and real models, on instances without a GPU."""
    secret = {"ca": str(CA)} if CA.is_file() else {}
    account.settings |= {
        "image.context": str(REPOSITORY),
        "image.requirements": "services",
        "image.build_args": json.dumps(arguments),
        "image.build_secrets": json.dumps(secret),
        "image.build_network": "host",
        "weights.model": str(models),
        "denoiser.encoder": str(models / "encoder"),
        "chat.instance_type": "ml.m5.2xlarge",
        "chat.autoscaling": json.dumps({"max": 3}),
    }
    return account


@pytest.mark.timeout(1800)
def test_the_real_image_goes_up_answers_and_comes_down(
    real: Account, address: str, client: docker.DockerClient, closed: Network, tmp_path: Path, figures: list[str]
) -> None:
    """The endpoints' replies are those of the pushed image, given what CreateModel says and the files in S3."""
    started = time.monotonic()
    up = real.deploy("up", "--json")
    assert up.code == 0, up.err
    figures.append(f"up with the whole image: {time.monotonic() - started:.0f} s")
    made = things(real)
    assert [len(made[key]) for key in made] == [2, 2, 2, 2, 1, 1, 1]
    chat, denoiser = (definition(real, name) for name in sorted(made["models"]))
    assert_pushed(client, address, chat["Image"])
    assert chat["Image"] == denoiser["Image"]
    with deployed(real, client, closed, tmp_path / "chat", chat) as url:
        real.aws.service = url
        words = ["endpoint", "invoke", "chat", "--text", "What is a data warehouse?", "--parameters", SHORT]
        whole = real.deploy(*words, "--json")
        assert whole.code == 0, whole.err
        streamed = real.deploy(*words, "--stream")
        assert streamed.code == 0, streamed.err
        assert streamed.out.rstrip("\n") == whole.json["outputs"]
        assert "data" in streamed.out
    with deployed(real, client, closed, tmp_path / "denoiser", denoiser) as url:
        real.aws.service = url
        vectors = real.deploy("endpoint", "invoke", "denoiser", "--text", "A data warehouse.", "--json")
        assert vectors.code == 0, vectors.err
        assert vectors.json["shape"] == [1, 384]
    again = real.deploy("up", "--json")
    assert again.json["changed"] == "nothing"
    assert things(real) == made
    down = real.deploy("down", "--yes")
    assert down.code == 0, down.err
    assert not any(things(real).values())


def definition(account: Account, name: str) -> Any:
    """What SageMaker was told to run."""
    return account.client("sagemaker").describe_model(ModelName=name)["PrimaryContainer"]


def assert_pushed(client: docker.DockerClient, address: str, name: str) -> None:
    """What the registry has under the name is the suite's image: the same layers, each of them there."""
    built, suites = client.images.get(name), client.images.get(IMAGE)
    assert built.attrs["RootFS"] == suites.attrs["RootFS"]
    manifest = ask_registry(address, f"manifests/{name.rpartition(':')[2]}")
    assert manifest["config"]["digest"] == built.id
    assert len(manifest["layers"]) == len(built.attrs["RootFS"]["Layers"])
    for layer in manifest["layers"]:
        found = httpx.head(f"http://{address}/v2/djl-container/blobs/{layer['digest']}", auth=LOGIN)
        assert int(found.headers["Content-Length"]) == layer["size"]


@contextlib.contextmanager
def deployed(
    account: Account, client: docker.DockerClient, network: Network, folder: Path, container: Any
) -> Iterator[str]:
    """What SageMaker does with a definition: fetch its prefix, mount it, run `serve`; yields its address."""
    bucket, _, prefix = container["ModelDataSource"]["S3DataSource"]["S3Uri"].removeprefix("s3://").partition("/")
    s3 = account.client("s3")
    for item in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
        path = folder / item["Key"].removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, item["Key"], str(path))
    folder.chmod(0o755)
    options = {"environment": container["Environment"], "network": network.name, **mount(folder, "/opt/ml/model")}
    with running_image(client, container["Image"], "serve", **options) as started:
        url = container_address(started, 8080)
        await_ping(started, url)
        yield url
