"""What goes wrong around the commands: each failure is one line that says what to do, and no stack trace."""

import boto3
import pytest

from bench.ports import free_port
from deploy.progress import say
from tests.deploy.conftest import Account, run
from tests.deploy.stand_in import Failure


def one_line(err: str) -> str:
    """The only line that says what failed."""
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("deploy: ")]
    assert len(lines) == 1, err
    return lines[0]


@pytest.mark.usefixtures("account")
def test_missing_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    done = run(["endpoint", "status", "chat", "--region", "us-east-1"], boto3.Session())
    assert done.code == 2
    assert "aws configure" in one_line(done.err)


@pytest.mark.usefixtures("account")
def test_a_dry_run_needs_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    role = "arn:aws-cn:iam::210987654321:role/endpoint-role"
    flags = ["--set", f"role_arn={role}", "--set", "image.tag=v1", "--region", "cn-northwest-1"]
    done = run(["up", "--dry-run", *flags], boto3.Session())
    assert done.code == 0, done.err
    steps = [entry.get("operation", "") or next(iter(entry)) for entry in done.json]
    assert steps[:3] == ["download", "command", "CreateBucket"]
    assert steps.index("push") < steps.index("CreateModel") < steps.index("CreateEndpoint")
    image = "210987654321.dkr.ecr.cn-northwest-1.amazonaws.com.cn/djl-container:v1"
    models = [entry["parameters"]["PrimaryContainer"] for entry in done.json if entry.get("operation") == "CreateModel"]
    assert [model["Image"] for model in models] == [image, image]
    uri = models[0]["ModelDataSource"]["S3DataSource"]["S3Uri"]
    assert uri.endswith("/djl-container/weights/THUDM--chatglm2-6b-b259b2732026/")


@pytest.mark.parametrize("region", ["us-esat-1", "us-gov-west-1", ""])
def test_wrong_region(account: Account, region: str) -> None:
    done = account.deploy("endpoint", "status", "chat", region=region)
    assert done.code == 2
    assert "--region" in one_line(done.err)


@pytest.mark.usefixtures("account")
def test_unknown_profile() -> None:
    done = run(["config", "show", "--region", "us-east-1", "--profile", "nobody"])
    assert done.code == 2
    assert "nobody" in one_line(done.err)


@pytest.mark.parametrize(
    ("role", "said"),
    [
        ("", "role_arn is not set"),
        ("arn:aws:iam::123456789012:role/missing", "there is no role"),
        ("arn:aws-cn:iam::123456789012:role/endpoint-role", "is not of the partition aws"),
    ],
)
def test_missing_role(account: Account, role: str, said: str) -> None:
    done = account.deploy("up", role_arn=role)
    assert done.code == 2
    assert said in one_line(done.err)
    assert "PutObject" not in account.aws.counts  # said before anything is sent


def test_a_bucket_of_another_account(account: Account) -> None:
    account.aws.failures["HeadBucket"] = Failure("403", "Forbidden", status=403, times=9)
    done = account.deploy("weights", "upload")
    assert done.code == 2
    assert "belongs to another account" in one_line(done.err)


def test_a_bucket_in_another_region(account: Account) -> None:
    account.client("s3").create_bucket(Bucket="team", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    done = account.deploy("weights", "upload", bucket="team")
    assert done.code == 2
    assert "is in eu-west-1, not in us-east-1" in one_line(done.err)
    assert "PutObject" not in account.aws.counts


def test_a_name_somebody_took_in_between(ready: Account) -> None:
    message = 'Cannot create already existing endpoint "djl-container-denoiser".'
    ready.aws.failures["CreateEndpoint"] = Failure("ValidationException", message)
    done = ready.deploy("endpoint", "create", "denoiser")
    assert done.code == 1
    assert "--set name=NAME" in one_line(done.err)


def test_throttling_is_tried_again_and_then_said(ready: Account) -> None:
    ready.aws.failures["CreateModel"] = Failure("ThrottlingException", "Rate exceeded", times=1)
    assert ready.deploy("endpoint", "create", "denoiser").code == 0
    assert ready.aws.counts["CreateModel"] == 2
    ready.aws.failures["DescribeEndpoint"] = Failure("ThrottlingException", "Rate exceeded", times=9)
    done = ready.deploy("endpoint", "status", "denoiser")
    assert done.code == 1
    assert "wait a minute" in one_line(done.err)


def test_access_denied_names_the_policy(ready: Account) -> None:
    ready.aws.failures["CreateModel"] = Failure("AccessDeniedException", "not authorized", times=9)
    done = ready.deploy("endpoint", "create", "denoiser")
    assert done.code == 1
    assert "policy deployer" in one_line(done.err)


@pytest.mark.usefixtures("account")
def test_lost_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    done = run(["endpoint", "status", "chat", "--region", "us-east-1", "--set", "attempts=1"], boto3.Session())
    assert done.code == 1
    assert "cannot reach AWS" in one_line(done.err)


@pytest.mark.usefixtures("account")
def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "foo")
    done = run(["endpoint", "status", "chat", "--region", "us-east-1"], boto3.Session())
    assert done.code == 2
    assert "AWS_ENDPOINT_URL" in one_line(done.err)


def test_what_is_said_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    say("[bold]arn:x:role")
    assert capsys.readouterr().err == "[bold]arn:x:role\n"


def test_help_names_the_defaults(account: Account) -> None:
    done = account.deploy("endpoint", "invoke", "--help")
    assert "(default: deploy.toml" in done.out
    assert "(default: a sample" in done.out


def test_a_network_lost_halfway_leaves_nothing_unsaid(ready: Account) -> None:
    ready.aws.failures["CreateEndpoint"] = Failure(times=9)
    done = ready.deploy("endpoint", "create", "denoiser")
    assert done.code == 1
    assert "cannot reach AWS" in one_line(done.err)
    assert "done before that: CreateModel, CreateEndpointConfig; " in done.err.splitlines()[-1]
    assert done.err.endswith("`python -m deploy down` removes what carries the project's tag\n")
    ready.aws.failures.clear()
    assert ready.deploy("endpoint", "create", "denoiser").code == 0


def test_no_such_endpoint(account: Account) -> None:
    for command in ("status", "wait", "update", "scale"):
        done = account.deploy("endpoint", command, "chat")
        assert done.code == 2
        assert "endpoint create chat" in one_line(done.err)
