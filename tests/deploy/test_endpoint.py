"""One endpoint: waiting, failing, rolling back, deleting, and what belongs to others."""

import json
import os
import time
from pathlib import Path

import pytest

from deploy.aws import Aws
from deploy.journal import Journal
from deploy.logs import follow
from tests.deploy.conftest import Account, print_log, push_image, things
from tests.deploy.iam import refused
from tests.deploy.stand_in import Failure

CPU = {"denoiser__instance_type": "ml.m5.large"}


@pytest.fixture
def denoiser(ready: Account) -> Account:
    """An account with the denoiser's endpoint."""
    assert ready.deploy("endpoint", "create", "denoiser").code == 0
    return ready


def test_wait_shows_each_state(ready: Account) -> None:
    ready.aws.states = ["Creating", "Creating", "InService"]
    done = ready.deploy("endpoint", "create", "denoiser")
    assert done.code == 0, done.err
    assert done.err.index("djl-container-denoiser: Creating") < done.err.index("djl-container-denoiser: InService")


def test_a_failed_endpoint_shows_the_reason_and_the_last_log_lines(ready: Account) -> None:
    ready.aws.states = ["Creating", "Failed"]
    ready.aws.reason = "The primary container did not pass the ping health check."
    print_log(ready, "denoiser", "starting", "denoiser: MODEL_PATH=/nowhere is no checkpoint")
    done = ready.deploy("endpoint", "create", "denoiser")
    assert done.code == 3
    assert "djl-container-denoiser is Failed: The primary container did not pass" in done.err
    assert "  denoiser: MODEL_PATH=/nowhere is no checkpoint" in done.err
    assert "CreateEndpoint" in done.err.splitlines()[-1]  # what was made stays said
    assert "Traceback" not in done.err


def test_a_failed_endpoint_is_made_anew(ready: Account) -> None:
    ready.aws.states = ["Creating", "Failed"]
    assert ready.deploy("endpoint", "create", "denoiser").code == 3
    ready.aws.reason = ""
    again = ready.deploy("endpoint", "create", "denoiser", "--json")
    assert again.code == 0, again.err
    assert "failed earlier" in again.err
    assert again.json == {"djl-container-denoiser": "created"}


def test_an_update_that_fails_is_rolled_back_and_said(denoiser: Account) -> None:
    before = things(denoiser)
    denoiser.aws.failing_updates, denoiser.aws.reason = True, "Alarm djl-container-denoiser-5xx went off"
    push_image(denoiser, "v2")
    done = denoiser.deploy("endpoint", "update", "denoiser", image__tag="v2")
    assert done.code == 3
    assert "failed and was rolled back" in done.err
    assert before["configs"][0] in done.err
    assert "Alarm djl-container-denoiser-5xx went off" in done.err
    assert "djl-container-denoiser: RollingBack" in done.err
    assert things(denoiser) == before


def test_wait_finishes_what_was_left_to_it(denoiser: Account) -> None:
    """Whatever the settings of `wait` say of the definition: it goes by what the endpoint was told."""
    before = things(denoiser)
    push_image(denoiser, "v2")
    update = ("endpoint", "update", "denoiser", "--no-wait")
    denoiser.aws.failing_updates = True
    assert denoiser.deploy(*update, image__tag="v2").code == 0
    done = denoiser.deploy("endpoint", "wait", "denoiser")
    assert done.code == 3
    assert "failed and was rolled back" in done.err
    assert things(denoiser) == before
    denoiser.aws.failing_updates = False
    for tag in ("v2", "v1"):  # there and back, so that the first definition is left from before
        assert denoiser.deploy(*update, image__tag=tag).code == 0
    scaled = {"denoiser__autoscaling": '{"max": 3}'}
    done = denoiser.deploy("endpoint", "wait", "denoiser", "--json", image__tag="v2", **scaled)
    assert done.code == 0, done.err
    assert done.json["status"] == "InService"
    assert things(denoiser) == {**before, "targets": ["endpoint/djl-container-denoiser/variant/AllTraffic"]}


def test_wait_leaves_what_scale_set(denoiser: Account) -> None:
    scaled, target = {"denoiser__autoscaling": '{"max": 3}'}, ["endpoint/djl-container-denoiser/variant/AllTraffic"]
    for option, settings, targets in (("--max", {}, target), ("--count", scaled, [])):
        assert denoiser.deploy("endpoint", "scale", "denoiser", option, "2", **settings).code == 0
        denoiser.aws.states = ["Updating", "InService"]
        assert denoiser.deploy("endpoint", "wait", "denoiser", **settings).code == 0
        assert things(denoiser)["targets"] == targets


def test_wait_finishes_a_create_that_serves_by_then(denoiser: Account) -> None:
    """In the place of one that somebody deleted, whose alarm is still there."""
    denoiser.client("sagemaker").delete_endpoint(EndpointName="djl-container-denoiser")
    scaled = {"denoiser__autoscaling": '{"max": 3}'}
    assert denoiser.deploy("endpoint", "create", "denoiser", "--no-wait", **scaled).code == 0
    assert things(denoiser)["targets"] == things(denoiser)["alarms"] == []
    done = denoiser.deploy("endpoint", "wait", "denoiser", **scaled)
    assert done.code == 0, done.err
    assert "djl-container-denoiser: autoscaling from 1 to 3 instances" in done.err
    assert things(denoiser)["targets"] == ["endpoint/djl-container-denoiser/variant/AllTraffic"]
    assert things(denoiser)["alarms"] == ["djl-container-denoiser-5xx"]
    assert refused(denoiser, denoiser.calls) == []


def test_an_update_of_autoscaling_alone_leaves_nothing_to_wait(denoiser: Account) -> None:
    scaled = {"denoiser__autoscaling": '{"max": 3}'}
    assert denoiser.deploy("endpoint", "update", "denoiser", "--no-wait", **scaled).code == 0
    assert things(denoiser)["targets"] == ["endpoint/djl-container-denoiser/variant/AllTraffic"]


def test_wait_passes_over_a_definition_that_the_endpoint_was_not_told_of(denoiser: Account) -> None:
    """SageMaker refused the update; it could as well be another run's that is not that far yet."""
    before = things(denoiser)
    push_image(denoiser, "v2")
    denoiser.aws.failures["UpdateEndpoint"] = Failure("ValidationException", "not now")
    assert denoiser.deploy("endpoint", "update", "denoiser", image__tag="v2").code == 1
    prepared = things(denoiser)
    assert [len(prepared[kind]) for kind in ("configs", "models")] == [2, 2]
    done = denoiser.deploy("endpoint", "wait", "denoiser")
    assert done.code == 0, done.err
    assert things(denoiser) == prepared
    assert denoiser.deploy("endpoint", "update", "denoiser", image__tag="v2").code == 0
    for kind in ("configs", "models"):
        assert set(things(denoiser)[kind]) == set(prepared[kind]) - set(before[kind])


def test_waiting_ends_at_the_limit(ready: Account) -> None:
    ready.aws.states = ["Creating"] * 1000
    done = ready.deploy("endpoint", "create", "denoiser", wait_seconds="0.05")
    assert done.code == 4
    assert "endpoint wait denoiser" in done.err
    ready.aws.states = ["Creating", "InService"]
    assert ready.deploy("endpoint", "wait", "denoiser").code == 0


def test_an_endpoint_at_work_is_waited_for_before_it_is_changed(denoiser: Account) -> None:
    denoiser.aws.states = ["Updating", "Updating"]
    done = denoiser.deploy("endpoint", "update", "denoiser", "--json", **CPU)
    assert done.code == 0, done.err
    assert done.json == {"djl-container-denoiser": "updated"}


def test_delete_takes_only_what_carries_the_tag(denoiser: Account) -> None:
    sagemaker = denoiser.client("sagemaker")
    sagemaker.create_model(ModelName="djl-container-denoiser-mine", ExecutionRoleArn=denoiser.settings["role_arn"])
    done = denoiser.deploy("endpoint", "delete", "denoiser", "--yes")
    assert done.code == 0, done.err
    left = things(denoiser)
    assert left["models"] == ["djl-container-denoiser-mine"]
    assert left["endpoints"] == left["configs"] == left["alarms"] == []
    assert left["repositories"] == ["djl-container"]


def test_down_keeps_a_bucket_with_objects_of_others(account: Account) -> None:
    assert account.deploy("weights", "upload").code == 0
    bucket = things(account)["buckets"][0]
    s3 = account.client("s3")
    s3.put_object(Bucket=bucket, Key="djl-container/notes.txt", Body=b"of somebody else")
    done = account.deploy("down", "--yes")
    assert done.code == 0, done.err
    assert f"kept the bucket {bucket}" in done.err
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["djl-container/notes.txt"]


def test_an_endpoint_of_others_is_left_alone(account: Account) -> None:
    assert account.deploy("weights", "upload", "denoiser").code == 0
    sagemaker = account.client("sagemaker")
    sagemaker.create_model(ModelName="theirs", ExecutionRoleArn=account.settings["role_arn"])
    variant = {"VariantName": "A", "ModelName": "theirs", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName="theirs", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="djl-container-denoiser", EndpointConfigName="theirs")
    for command in (["update", "denoiser"], ["delete", "denoiser", "--yes"], ["create", "denoiser"]):
        done = account.deploy("endpoint", *command)
        assert done.code == 2
        assert "is not of this project" in done.err
        assert "--set name=NAME" in done.err
    left = things(account)
    assert left["endpoints"] == ["djl-container-denoiser"]
    assert left["models"] == left["configs"] == ["theirs"]


def test_delete_asks_and_deletes_nothing_when_nobody_answers(
    denoiser: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        done = denoiser.deploy("endpoint", "delete", "denoiser")
    assert done.code == 2, done.err
    assert "endpoint djl-container-denoiser" in done.err
    assert "add --yes" in done.err
    assert things(denoiser)["endpoints"] == ["djl-container-denoiser"]


def test_delete_asks_on_a_terminal(denoiser: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    import pty  # noqa: PLC0415 - Unix only

    for answer, code, left in (("n", 1, ["djl-container-denoiser"]), ("y", 0, [])):
        ours, theirs = pty.openpty()
        with open(ours, "w") as keyboard, open(theirs) as terminal:  # noqa: PTH123 - descriptors
            keyboard.write(f"{answer}\n")
            keyboard.flush()
            monkeypatch.setattr("sys.stdin", terminal)
            done = denoiser.deploy("endpoint", "delete", "denoiser")
        assert done.code == code, done.err
        assert "delete all of it?" in done.err
        assert things(denoiser)["endpoints"] == left


def test_logs_are_followed(account: Account) -> None:
    print_log(account, "chat", "loading", "ready")
    aws = Aws(account.session, "us-east-1", Journal(), 2)
    lines = follow(aws, "/aws/sagemaker/Endpoints/djl-container-chat", 100, 0, sleep=lambda _: more())

    def more() -> None:
        place = {"logGroupName": "/aws/sagemaker/Endpoints/djl-container-chat", "logStreamName": "AllTraffic/i-1"}
        event = {"timestamp": int(time.time() * 1000) + 10, "message": "a request"}
        account.client("logs").put_log_events(**place, logEvents=[event])

    assert [next(lines) for _ in range(5)] == ["loading", "ready", "a request", "a request", "a request"]
    assert refused(account, account.calls) == []


def test_scale_between_two_numbers(denoiser: Account) -> None:
    done = denoiser.deploy("endpoint", "scale", "denoiser", "--min", "2", "--max", "4", "--target", "7.5", "--json")
    assert done.code == 0, done.err
    scaling = denoiser.client("application-autoscaling")
    target = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"][0]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 4)
    policy = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"][0]
    metric = policy["TargetTrackingScalingPolicyConfiguration"]
    assert metric["TargetValue"] == 7.5
    denoiser.calls.clear()
    again = denoiser.deploy("endpoint", "scale", "denoiser", "--min", "2", "--max", "4", "--target", "7.5")
    assert again.code == 0
    assert not [call for call in denoiser.calls if call[1].startswith(("Put", "Register"))]
    other = denoiser.deploy("endpoint", "scale", "denoiser", "--min", "1", "--max", "3")
    assert other.code == 0, other.err
    target = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"][0]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 3)
    wrong = denoiser.deploy("endpoint", "scale", "denoiser", "--min", "5", "--max", "4")
    assert wrong.code == 2
    assert "max (4) is below min (5)" in wrong.err


def test_scale_beside_a_policy_of_others(denoiser: Account) -> None:
    scale = ("endpoint", "scale", "denoiser", "--max", "3", "--target")
    assert denoiser.deploy(*scale, "5").code == 0
    scaling = denoiser.client("application-autoscaling")
    target = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"][0]
    place = {key: target[key] for key in ("ServiceNamespace", "ResourceId", "ScalableDimension")}
    steps = {"AdjustmentType": "ChangeInCapacity", "StepAdjustments": [{"ScalingAdjustment": 1}]}
    scaling.put_scaling_policy(
        PolicyName="theirs", PolicyType="StepScaling", StepScalingPolicyConfiguration=steps, **place
    )
    done = denoiser.deploy(*scale, "7")
    assert done.code == 0, done.err


def test_create_names_the_command_that_brings_what_is_missing(account: Account) -> None:
    done = account.deploy("endpoint", "create", "chat")
    assert done.code == 2
    assert "weights upload" in done.err
    done = account.deploy("endpoint", "create", "denoiser")
    assert done.code == 2
    assert "weights upload denoiser" in done.err
    assert account.deploy("weights", "upload", "denoiser").code == 0
    done = account.deploy("endpoint", "create", "denoiser", image__tag="v9")
    assert done.code == 2
    assert "image build" in done.err


def test_a_missing_quota_says_where_to_ask(ready: Account) -> None:
    message = "The account-level service limit 'ml.c5.xlarge for endpoint usage' is 0 Instances"
    ready.aws.failures["CreateEndpoint"] = Failure("ResourceLimitExceeded", message)
    done = ready.deploy("endpoint", "create", "denoiser")
    assert done.code == 1
    assert "Service Quotas" in done.err
    assert "CreateModel, CreateEndpointConfig; the same command" in done.err


@pytest.mark.parametrize(
    ("instance_type", "device"),
    [("ml.g5.2xlarge", "cuda"), ("ml.p5.48xlarge", "cuda"), ("ml.m5.2xlarge", None)],
)
def test_chat_on_a_gpu_instance_never_falls_back_to_the_cpu(
    account: Account, instance_type: str, device: str | None
) -> None:
    done = account.deploy("up", "--dry-run", chat__instance_type=instance_type)
    models = [entry["parameters"] for entry in done.json if entry["operation"] == "CreateModel"]
    chat, denoiser = (model["PrimaryContainer"]["Environment"] for model in models)
    assert chat.get("CHAT_DEVICE") == device
    assert "CHAT_DEVICE" not in denoiser


def test_the_stock_image_runs_the_converted_weights(account: Account) -> None:
    stock = {"chat__image": "stock", "denoiser__enabled": "false"}
    done = account.deploy("up", "--dry-run", **stock)
    assert done.code == 0, done.err
    model = next(entry for entry in done.json if entry["operation"] == "CreateModel")["parameters"]
    container = model["PrimaryContainer"]
    assert container["Image"].startswith("763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-lmi")
    assert container["Environment"]["HF_MODEL_ID"] == "/opt/ml/model"
    assert "CHAT_DEVICE" not in container["Environment"]  # a setting of this project's code
    assert "ModelDataSource" in container
    assert not [entry for entry in done.json if "command" in entry or entry.get("service") == "ecr"]
    packed = account.deploy("up", "--dry-run", chat__packaged="true", **stock)
    model = next(entry for entry in packed.json if entry["operation"] == "CreateModel")["parameters"]
    assert model["PrimaryContainer"]["ModelDataUrl"].endswith("/model.tar.gz")
    assert model["PrimaryContainer"]["Environment"]["HF_MODEL_ID"].startswith("s3://")
    assert model["PrimaryContainer"]["Environment"]["CHAT_DEVICE"] == "cuda"
    assert model["EnableNetworkIsolation"] is False
    assert json.dumps(packed.json).count("model.tar.gz") >= 2  # uploaded, and named
