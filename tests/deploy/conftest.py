"""An AWS account over HTTP, a small checkpoint to deploy, and the command line run in this process."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from deploy.__main__ import app
from tests.deploy import stand_in
from tests.deploy.stand_in import StandIn

ROLE = "arn:aws:iam::123456789012:role/endpoint-role"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Call = tuple[str, str, dict[str, Any]]


@dataclass
class Account:
    """An account, and the commands run in it."""

    aws: StandIn
    session: boto3.Session
    settings: dict[str, str]
    calls: list[Call] = field(default_factory=list)
    """Every call of boto3, as it was given to it."""

    def deploy(self, *words: str, **settings: str) -> Outcome:
        """Run a command, with the account's settings and these."""
        chosen = {**self.settings, **{key.replace("__", "."): value for key, value in settings.items()}}
        flags = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
        return run([*words, *flags], self.session)

    def client(self, service: str) -> Any:
        """A client that leaves no record."""
        create: Any = boto3.client
        return create(service, region_name=self.settings["region"])


def run(words: list[str], session: boto3.Session | None = None) -> Outcome:
    """The command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(words, obj=session)
        except SystemExit as end:
            code = int(end.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def aws_server() -> Iterator[StandIn]:
    with stand_in.running() as server:
        yield server


@pytest.fixture(scope="session")
def recorded() -> tuple[boto3.Session, list[Call]]:
    """One session of boto3 for all tests (its service models take long to read), and what was called through it."""
    calls: list[Call] = []
    session = boto3.Session("testing", "testing")

    def record(params: dict[str, Any], model: Any, **_: Any) -> None:
        calls.append((model.service_model.service_name, model.name, dict(params)))

    session.events.register("provide-client-params", record)
    return session, calls


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder shaped like a native checkpoint: a small config, a shard of several parts, a tokenizer."""
    folder = tmp_path / "tiny-model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "glm"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model-00001-of-00001.safetensors").write_bytes(os.urandom(12 * 2**20))
    return folder


@pytest.fixture
def account(
    aws_server: StandIn,
    recorded: tuple[boto3.Session, list[Call]],
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Account:
    """An empty account with a role for the endpoints, and an image pushed under the tag `v1`."""
    aws_server.reset()
    for key, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": aws_server.url, "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)
    session, calls = recorded
    calls.clear()
    settings = {
        "region": "us-east-1",
        "role_arn": ROLE,
        "poll_seconds": "0.01",
        "attempts": "2",
        "weights.model": str(checkpoint),
        "weights.part_mib": "5",
        "image.tag": "v1",
        "chat.instance_type": "ml.g4dn.2xlarge",
    }
    made = Account(aws_server, session, settings, calls)
    trust = {"Version": "2012-10-17", "Statement": []}
    made.client("iam").create_role(RoleName="endpoint-role", AssumeRolePolicyDocument=json.dumps(trust))
    return made


def push_image(account: Account, tag: str = "v1") -> None:
    """What a push leaves in ECR: the repository, tagged as the commands tag it, and the image. moto is no registry."""
    ecr = account.client("ecr")
    tags = [{"Key": "djl-container-project", "Value": "djl-container"}]
    with contextlib.suppress(ecr.exceptions.RepositoryAlreadyExistsException):
        ecr.create_repository(repositoryName="djl-container", tags=tags)
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "config": {"digest": tag}, "layers": []}
    ecr.put_image(
        repositoryName="djl-container", imageTag=tag, imageManifest=json.dumps(manifest), imageManifestMediaType=kind
    )


@pytest.fixture
def pushed(account: Account) -> Account:
    """The account, with the image `v1` in its repository."""
    push_image(account)
    return account
