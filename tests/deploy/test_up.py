"""The whole way: `up`, what an operator does then, `down`; and `up` cut off at every step."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from deploy.aws import FilePart
from deploy.settings import Settings
from tests.deploy.conftest import Account, Call, MakeAccount, Outcome, print_log, push_image, things
from tests.deploy.iam import allows, asked_by_endpoint, asked_for, deployer_policy, refused
from tests.deploy.stand_in import Failure

SCALED = {"chat__autoscaling": '{"max": 3}'}
EMPTY = ["endpoints", "configs", "models", "alarms", "buckets", "repositories", "targets"]
FOUND = {
    "PutBucketTagging": ("get_bucket_tagging", "Bucket", ""),
    "PutPublicAccessBlock": ("get_public_access_block", "Bucket", ""),
    "PutBucketLifecycleConfiguration": ("get_bucket_lifecycle_configuration", "Bucket", ""),
    "CreateModel": ("describe_model", "ModelName", ""),
    "CreateEndpointConfig": ("describe_endpoint_config", "EndpointConfigName", ""),
    "CreateEndpoint": ("describe_endpoint", "EndpointName", ""),
    "PutMetricAlarm": ("describe_alarms", "", "MetricAlarms"),
    "RegisterScalableTarget": ("describe_scalable_targets", "ServiceNamespace", "ScalableTargets"),
    "PutScalingPolicy": ("describe_scaling_policies", "ServiceNamespace", "ScalingPolicies"),
}
"""How to see what a request made: the call, the parameter it shares with the request, the list in its answer."""
UNSEEN = {"Bucket", "Tags", "EnableNetworkIsolation"}
"""Tags are what `down` goes by; the isolation moto forgets."""
BY_DOCKER = {
    "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload", "ecr:InitiateLayerUpload",
    "ecr:PutImage", "ecr:UploadLayerPart", "ecr:GetAuthorizationToken",
}  # fmt: skip
"""What a push asks for (Amazon ECR user guide, "IAM permissions for pushing an image")."""
IN_TEST_UPLOAD = {"s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"}
READS = ("Get", "Head", "List", "Describe", "Invoke", "Filter")


class Life:
    """What was seen of a deployment from its first day to its last."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.dry = account.deploy("up", "--dry-run", **SCALED)
        self.after_dry_run = things(account)
        self.changes_of_dry_run = changes(account.calls)
        self.up = account.deploy("up", "--json", **SCALED)
        self.changes_of_up = changes(account.calls)
        self.wire = list(account.aws.wire)
        self.things = things(account)
        self.found = [(entry, found(account, entry)) for entry in self.dry.json if entry["operation"] in FOUND]
        account.calls.clear()
        self.again = account.deploy("up", "--json", **SCALED)
        self.changes_of_again = changes(account.calls)
        push_image(account, "v2")
        self.dry_update = account.deploy("endpoint", "update", "chat", "--dry-run", image__tag="v2", **SCALED)
        self.update = account.deploy("endpoint", "update", "chat", "--json", image__tag="v2", **SCALED)
        self.changes_of_update = changes(account.calls)
        self.updated = things(account)
        print_log(account, "chat", "loading", "ready")
        self.logs = account.deploy("endpoint", "logs", "chat", "--json")
        self.status = account.deploy("endpoint", "status", "chat", "--json")
        self.scale = account.deploy("endpoint", "scale", "chat", "--count", "2", "--json")
        self.calls = [*account.calls]
        account.calls.clear()
        self.dry_down = account.deploy("down", "--dry-run")
        self.down = account.deploy("down", "--yes", "--json")
        self.changes_of_down = changes(account.calls)
        self.calls += account.calls
        self.left = things(account)


def changes(calls: list[Call]) -> list[Call]:
    """The calls that change something."""
    return [call for call in calls if not call[1].startswith(READS)]


def found(account: Account, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What there is after a request, in the words of AWS."""
    call, shared, listed = FOUND[entry["operation"]]
    given = {shared: entry["parameters"][shared]} if shared else {}
    answer = getattr(account.client(entry["service"]), call)(**given)
    return list(answer[listed]) if listed else [answer]


@pytest.fixture(scope="module", params=["us-east-1", "cn-north-1"])
def life(request: pytest.FixtureRequest, make_account: MakeAccount) -> Life:
    return Life(make_account(request.param))


def test_every_command_succeeds(life: Life) -> None:
    for outcome in vars(life).values():
        if isinstance(outcome, Outcome):
            assert outcome.code == 0, outcome.err


def test_up_makes_everything_and_down_leaves_nothing(life: Life) -> None:
    region = life.account.settings["region"]
    assert life.things["endpoints"] == ["djl-container-chat", "djl-container-denoiser"]
    assert [len(life.things[key]) for key in EMPTY] == [2, 2, 2, 2, 1, 1, 1]
    assert life.things["buckets"] == [f"djl-container-123456789012-{region}"]
    assert life.left == {key: [] for key in EMPTY}
    assert len(life.down.json["deleted"]) == 11


def test_what_up_makes_is_there_as_it_was_asked_for(life: Life) -> None:
    for entry, there in life.found:
        asked = {key: value for key, value in entry["parameters"].items() if key not in UNSEEN}
        asked |= asked.pop("Tagging", {}) | asked.pop("LifecycleConfiguration", {})
        assert any(all(item.get(key) == value for key, value in asked.items()) for item in there), (asked, there)


def test_a_second_up_changes_nothing(life: Life) -> None:
    assert life.again.json["changed"] == "nothing"
    assert life.changes_of_again == []


def test_a_dry_run_changes_nothing(life: Life) -> None:
    assert life.changes_of_dry_run == []
    assert life.after_dry_run["buckets"] == life.after_dry_run["endpoints"] == []


@pytest.mark.parametrize("command", ["up", "update", "down"])
def test_a_dry_run_prints_what_is_sent(life: Life, command: str) -> None:
    """Fields as `<Operation.Field>` stand for what only an answer tells; threads may send parts in another order."""
    printed: list[dict[str, Any]] = {"up": life.dry, "update": life.dry_update, "down": life.dry_down}[command].json
    sent = {"up": life.changes_of_up, "update": life.changes_of_update, "down": life.changes_of_down}[command]
    assert sorted(map(_key, printed), key=repr) == sorted((_key(_entry(call)) for call in sent), key=repr)


def _entry(call: Call) -> dict[str, Any]:
    service, operation, parameters = call
    names = {"monitoring": "cloudwatch"}
    return {"service": names.get(service, service), "operation": operation, "parameters": parameters}


def _key(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    return entry["service"], entry["operation"], repr(sorted(_plain(entry["parameters"]).items()))


def _plain(value: Any) -> Any:
    """Without what only an answer tells, and without the bytes of bodies."""
    if isinstance(value, Mapping):
        told = ("UploadId", "ETag", "Body")
        return {key: "?" if key in told else _plain(inner) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return "?" if isinstance(value, (bytes, FilePart)) else value


def test_what_is_printed_is_what_travels(life: Life) -> None:
    """The JSON of the requests to SageMaker, ECR and autoscaling as it came over HTTP."""
    printed = {e["operation"]: e["parameters"] for e in life.dry.json if "operation" in e}
    came = dict(life.wire)
    for operation in ("CreateModel", "CreateEndpointConfig", "CreateEndpoint", "RegisterScalableTarget"):
        assert came[operation] == printed[operation]


def test_requests_to_sagemaker(life: Life) -> None:
    region = life.account.settings["region"]
    partition, domain = ("aws-cn", "amazonaws.com.cn") if region == "cn-north-1" else ("aws", "amazonaws.com")
    requests = [entry for entry in life.dry.json if entry.get("service") == "sagemaker"]
    model = next(e["parameters"] for e in requests if e["operation"] == "CreateModel")
    container = model["PrimaryContainer"]
    assert container["Image"] == f"123456789012.dkr.ecr.{region}.{domain}/djl-container:v1"
    assert container["Environment"]["CHAT_DEVICE"] == "cuda"
    source = container["ModelDataSource"]["S3DataSource"]
    assert source["S3Uri"].startswith(f"s3://djl-container-123456789012-{region}/djl-container/weights/tiny-model-")
    assert source["S3Uri"].endswith("/")
    assert (source["S3DataType"], source["CompressionType"]) == ("S3Prefix", "None")
    assert model["ExecutionRoleArn"].startswith(f"arn:{partition}:")
    assert model["EnableNetworkIsolation"] is True
    assert model["Tags"] == [{"Key": "djl-container-project", "Value": "djl-container"}]
    config = next(e["parameters"] for e in requests if e["operation"] == "CreateEndpointConfig")
    variant = config["ProductionVariants"][0]
    assert variant["InferenceAmiVersion"] == "al2023-ami-sagemaker-inference-gpu-4-1"
    assert variant["ContainerStartupHealthCheckTimeoutInSeconds"] == 900
    assert variant["RoutingConfig"] == {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"}
    denoiser = [e["parameters"] for e in requests if e["operation"] == "CreateEndpointConfig"][1]
    assert "InferenceAmiVersion" not in denoiser["ProductionVariants"][0]


def test_the_teams_own_tags_are_on_everything_that_can_have_them(account: Account) -> None:
    account.client("ecr").delete_repository(repositoryName="djl-container", force=True)
    done = account.deploy("up", "--dry-run", tags='{"team": "nlp"}', **SCALED)
    tagged = [entry for entry in done.json if {"Tags", "tags", "Tagging"} & entry.get("parameters", {}).keys()]
    assert {entry["operation"] for entry in tagged} >= {"PutObject", "CreateRepository", "RegisterScalableTarget"}
    assert [entry for entry in tagged if "nlp" not in json.dumps(entry)] == []


def test_update_replaces_and_removes_what_was_before(life: Life) -> None:
    assert life.update.json == {"djl-container-chat": "updated"}
    assert len(life.updated["configs"]) == len(life.updated["models"]) == 2
    assert set(life.updated["configs"]) != set(life.things["configs"])
    request = next(call[2] for call in life.changes_of_update if call[1] == "UpdateEndpoint")
    alarms = request["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    assert alarms == [{"AlarmName": "djl-container-chat-5xx"}]
    assert request["RetainAllVariantProperties"] is True
    limit = request["DeploymentConfig"]["BlueGreenUpdatePolicy"]["MaximumExecutionTimeoutInSeconds"]
    assert limit < Settings().wait_seconds


def test_operators_commands(life: Life) -> None:
    assert life.logs.json == {"lines": ["loading", "ready"]}
    assert life.status.json["status"] == "InService"
    assert life.scale.json == {"instances": 2}


def test_the_deployers_policy_allows_just_what_was_called(life: Life) -> None:
    """Every recorded call is allowed; every allowed action was called, but those that Docker and AWS itself call."""
    account, calls = life.account, [*life.changes_of_up, *life.calls]
    assert refused(account, calls) == []
    document = deployer_policy(account)
    asked = {access for call in calls for access in asked_for(account, call)}
    allowed = {action for statement in document["Statement"] for action in statement["Action"]}
    by_others = BY_DOCKER | IN_TEST_UPLOAD | {
        # autoscaling, the first time in an account
        "iam:CreateServiceLinkedRole",
        # tests of their own: test_invoke, test_endpoint, tests/container
        "sagemaker:InvokeEndpoint", "sagemaker:InvokeEndpointWithResponseStream", "logs:FilterLogEvents",
        "ecr:TagResource", "ecr:CreateRepository",
    }  # fmt: skip
    assert allowed - {access.action for access in asked} == by_others


def test_a_bucket_and_repository_that_are_named_stay_and_the_policy_allows_just_their_use(account: Account) -> None:
    account.settings |= {"bucket": "team", "image.repository": "team/images"}
    account.client("s3").create_bucket(Bucket="team")
    push_image(account, repository="team/images")
    assert account.deploy("image", "push", "--dry-run", image__tag="v2").code == 0
    for words in (["up"], ["down", "--yes"]):
        assert account.deploy(*words).code == 0
    assert things(account)["buckets"] == ["team"]
    assert "team/images" in things(account)["repositories"]
    assert refused(account, account.calls) == []
    asked = {access.action for call in account.calls for access in asked_for(account, call)}
    allowed = {action for statement in deployer_policy(account)["Statement"] for action in statement["Action"]}
    stored = {action for action in allowed if action.startswith(("s3:", "ecr:"))}
    assert stored - asked == BY_DOCKER | IN_TEST_UPLOAD


def test_the_endpoints_policy_allows_just_what_the_deployed_models_need(life: Life) -> None:
    document = life.account.deploy("policy", "endpoint").json
    asked = asked_by_endpoint(life.account, life.changes_of_up)
    assert [access for access in asked if not allows(document, access, {})] == []
    allowed = {action for statement in document["Statement"] for action in statement["Action"]}
    assert allowed == {access.action for access in asked}
    for access in asked:
        if access.resource != "*":
            assert not allows(document, replace(access, resource=access.resource.replace("djl-container", "other")), {})


def test_only_sagemaker_of_the_account_takes_the_role_on(life: Life) -> None:
    (statement,) = life.account.deploy("policy", "trust").json["Statement"]
    assert statement["Principal"] == {"Service": "sagemaker.amazonaws.com"}
    assert statement["Action"] == "sts:AssumeRole"
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_up_cut_off_before_or_after_any_step_goes_on_the_next_time(account: Account, late: bool) -> None:
    """Each run ends at the next step: refused, or carried out without a word of it coming back."""
    dry = account.deploy("up", "--dry-run", denoiser__enabled="false", **SCALED)
    steps = list(dict.fromkeys(entry["operation"] for entry in dry.json))
    assert len(steps) == 14
    if late:
        steps.remove("PutBucketTagging")  # CreateBucket did that
    steps.remove("PutObject")
    steps.insert(steps.index("CompleteMultipartUpload") + 1, "PutObject")
    for step in steps:
        account.aws.failures[step] = Failure("AccessDenied", "not now", times=9, late=late)
        cut = account.deploy("up", denoiser__enabled="false", **SCALED)
        assert cut.code == 1, cut.out
        assert "not now" in cut.err
        assert "Traceback" not in cut.err
        account.aws.failures.clear()
    done = account.deploy("up", "--json", denoiser__enabled="false", **SCALED)
    assert done.code == 0, done.err
    assert done.json["changed"] == ("nothing" if late else "PutMetricAlarm")
    assert [len(things(account)[key]) for key in EMPTY] == [1, 1, 1, 1, 1, 1, 1]
    uploads = account.client("s3").list_multipart_uploads(Bucket=things(account)["buckets"][0])
    assert late or "Uploads" not in uploads  # what was cut off as it began has no parts and takes no space


def test_a_bucket_without_the_tag_is_left_alone(account: Account) -> None:
    """It has the name the project would give its own."""
    s3, theirs = account.client("s3"), "djl-container-123456789012-us-east-1"
    s3.create_bucket(Bucket=theirs)
    s3.put_object(Bucket=theirs, Key="notes.txt", Body=b"of somebody else")
    done = account.deploy("weights", "upload")
    assert done.code == 2
    assert f"bucket '{theirs}' exists and is not of this project" in done.err
    assert "--set bucket=NAME" in done.err
    assert account.deploy("down", "--yes").code == 0
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=theirs)["Contents"]] == ["notes.txt"]
    assert "PutBucketTagging" not in account.aws.counts


def test_down_says_which_objects_s3_did_not_delete(account: Account) -> None:
    assert account.deploy("weights", "upload").code == 0
    (bucket,) = things(account)["buckets"]
    place = f"arn:aws:s3:::{bucket}/djl-container/*"
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": place}
    document = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    account.client("s3").put_bucket_policy(Bucket=bucket, Policy=document)
    done = account.deploy("down", "--yes")
    assert done.code == 1
    assert "S3 did not delete 3 of 3 objects, such as djl-container/weights/tiny-model-" in done.err
    assert "AccessDenied: Access Denied" in done.err
    assert "done before that: DeleteObjects; the same command goes on from there\n" in done.err
    assert things(account)["buckets"] == [bucket]


def test_down_keeps_an_endpoint_of_others_and_removes_the_rest(account: Account) -> None:
    assert account.deploy("weights", "upload").code == 0
    sagemaker = account.client("sagemaker")
    sagemaker.create_model(ModelName="theirs", ExecutionRoleArn=account.settings["role_arn"])
    variant = {"VariantName": "A", "ModelName": "theirs", "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    sagemaker.create_endpoint_config(EndpointConfigName="theirs", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="djl-container-chat", EndpointConfigName="theirs")
    account.client("application-autoscaling").register_scalable_target(
        ServiceNamespace="sagemaker", ResourceId="endpoint/djl-container-chat/variant/AllTraffic",
        ScalableDimension="sagemaker:variant:DesiredInstanceCount", MinCapacity=1, MaxCapacity=2,
    )  # fmt: skip
    done = account.deploy("down", "--yes")
    assert done.code == 0, done.err
    assert "kept the endpoint djl-container-chat: it is not of this project" in done.err
    left = things(account)
    assert [key for key in EMPTY if left[key]] == ["endpoints", "configs", "models", "targets"]
