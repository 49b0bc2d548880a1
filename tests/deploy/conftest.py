"""An AWS account over HTTP, a small checkpoint to deploy, and the command line run in this process."""

import contextlib
import functools
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

from deploy.__main__ import app
from tests.deploy import stand_in
from tests.deploy.stand_in import StandIn

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


@functools.cache
def unrecorded(service: str, region: str) -> Any:
    """A client of the tests themselves."""
    create: Any = boto3.client
    return create(service, region_name=region)


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
        return unrecorded(service, self.settings["region"])


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
    """The stand-in."""
    with stand_in.running() as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def surroundings(aws_server: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The environment, where boto3 finds the stand-in with credentials that mean nothing, and a folder to work in."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": aws_server.url, "HF_HUB_OFFLINE": "1"}.items():
            patch.setenv(key, value)
        patch.chdir(tmp_path_factory.mktemp("work"))
        yield


class OneSession(boto3.Session):
    """A session that keeps the clients it made, which takes as long as several calls."""

    def __init__(self) -> None:
        super().__init__("testing", "testing")
        self._made: dict[tuple[str, str, int], Any] = {}

    def client(self, service_name: str, region_name: str, config: Any) -> Any:  # type: ignore[override]
        """As the commands ask for one."""
        key = service_name, region_name, config.retries["total_max_attempts"]
        if key not in self._made:
            create: Any = super().client
            self._made[key] = create(service_name, region_name=region_name, config=config)
        return self._made[key]


@pytest.fixture(scope="session")
def recorded() -> tuple[boto3.Session, list[Call]]:
    """One session of boto3 for all tests (its service models take long to read), and what was called through it."""
    calls: list[Call] = []
    session = OneSession()

    def record(params: dict[str, Any], model: Any, **_: Any) -> None:
        calls.append((model.service_model.service_name, model.name, dict(params)))

    session.events.register("provide-client-params", record)
    return session, calls


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder shaped like a native checkpoint: a small config, a shard of several parts, a tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "glm"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model-00001-of-00001.safetensors").write_bytes(os.urandom(6 * 2**20))
    return folder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder shaped like an encoder."""
    folder = tmp_path_factory.mktemp("models") / "encoder"
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("modules.json", "config.json", "1_Pooling/config.json"):
        (folder / name).write_text("{}")
    return folder


Recorded = tuple[boto3.Session, list[Call]]
MakeAccount = Callable[[str], Account]


@pytest.fixture(scope="session")
def make_account(aws_server: StandIn, recorded: Recorded, checkpoint: Path, encoder: Path) -> MakeAccount:
    """Empties the account and gives it a role for the endpoints; takes the region to work in."""

    def make(region: str) -> Account:
        aws_server.reset()
        session, calls = recorded
        calls.clear()
        partition = "aws-cn" if region.startswith("cn-") else "aws"
        settings = {
            "region": region,
            "role_arn": f"arn:{partition}:iam::123456789012:role/endpoint-role",
            "poll_seconds": "0.01",
            "attempts": "2",
            "weights.model": str(checkpoint),
            "weights.part_mib": "5",
            "denoiser.encoder": str(encoder),
            "image.tag": "v1",
            "chat.instance_type": "ml.g4dn.2xlarge",  # moto knows no ml.g5
        }
        account = Account(aws_server, session, settings, calls)
        trust = json.dumps({"Version": "2012-10-17", "Statement": []})
        account.client("iam").create_role(RoleName="endpoint-role", AssumeRolePolicyDocument=trust)
        push_image(account)
        return account

    return make


@pytest.fixture
def account(make_account: MakeAccount) -> Account:
    """An account with nothing but the role and a pushed image."""
    return make_account("us-east-1")


@pytest.fixture
def ready(account: Account) -> Account:
    """The account, with the denoiser's model data too."""
    assert account.deploy("weights", "upload", "denoiser").code == 0
    return account


def push_image(account: Account, tag: str = "v1", repository: str = "djl-container") -> None:
    """What a push leaves in ECR: the repository, tagged as the commands tag it, and the image. moto is no registry."""
    ecr = account.client("ecr")
    tags = [{"Key": "djl-container-project", "Value": "djl-container"}]
    with contextlib.suppress(ecr.exceptions.RepositoryAlreadyExistsException):
        ecr.create_repository(repositoryName=repository, tags=tags)
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = json.dumps({"schemaVersion": 2, "config": {"digest": tag}, "layers": []})
    ecr.put_image(repositoryName=repository, imageTag=tag, imageManifest=manifest, imageManifestMediaType=kind)


def things(account: Account) -> dict[str, list[str]]:
    """Everything the commands could have made in the account."""
    sagemaker, scaling = account.client("sagemaker"), account.client("application-autoscaling")
    targets = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    return {
        "endpoints": [e["EndpointName"] for e in sagemaker.list_endpoints()["Endpoints"]],
        "configs": [c["EndpointConfigName"] for c in sagemaker.list_endpoint_configs()["EndpointConfigs"]],
        "models": [m["ModelName"] for m in sagemaker.list_models()["Models"]],
        "alarms": [a["AlarmName"] for a in account.client("cloudwatch").describe_alarms()["MetricAlarms"]],
        "buckets": [b["Name"] for b in account.client("s3").list_buckets()["Buckets"]],
        "repositories": [r["repositoryName"] for r in account.client("ecr").describe_repositories()["repositories"]],
        "targets": [target["ResourceId"] for target in targets],
    }


def print_log(account: Account, service: str, *lines: str) -> None:
    """Put lines into an endpoint's log, as its container would."""
    logs = account.client("logs")
    place = {"logGroupName": f"/aws/sagemaker/Endpoints/djl-container-{service}", "logStreamName": "AllTraffic/i-1"}
    logs.create_log_group(logGroupName=place["logGroupName"])
    logs.create_log_stream(**place)
    now = int(time.time() * 1000)
    events = [{"timestamp": now + number, "message": line} for number, line in enumerate(lines)]
    logs.put_log_events(**place, logEvents=events)
