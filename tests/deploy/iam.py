"""Which IAM action on which resource a call of boto3 asks for, and whether a policy allows it.

Sources: the service authorization reference of AWS. Only what the project's policies use is understood; anything else
is an error, so that nothing passes unread.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from deploy import policy
from deploy.names import Names
from deploy.settings import read_settings
from tests.deploy.conftest import Account, Call

SERVICES = {"monitoring": "cloudwatch", "sagemaker-runtime": "sagemaker"}
S3_ACTIONS = {
    "CreateBucket": ["CreateBucket", "TagResource"],
    "HeadBucket": ["ListBucket"],
    "ListObjectsV2": ["ListBucket"],
    "HeadObject": ["GetObject"],
    "CreateMultipartUpload": ["PutObject", "PutObjectTagging"],
    "PutObject": ["PutObject", "PutObjectTagging"],
    "UploadPart": ["PutObject"],
    "CompleteMultipartUpload": ["PutObject"],
    "ListMultipartUploads": ["ListBucketMultipartUploads"],
    "ListParts": ["ListMultipartUploadParts"],
    "DeleteObjects": ["DeleteObject"],
    "GetPublicAccessBlock": ["GetBucketPublicAccessBlock"],
    "PutPublicAccessBlock": ["PutBucketPublicAccessBlock"],
    "GetBucketLifecycleConfiguration": ["GetLifecycleConfiguration"],
    "PutBucketLifecycleConfiguration": ["PutLifecycleConfiguration"],
}
FREE = {"sts:GetCallerIdentity"}  # needs no permission
TAGGING = {"sagemaker": "AddTags", "ecr": "TagResource", "cloudwatch": "TagResource"}
TAGGING["application-autoscaling"] = "TagResource"


@dataclass(frozen=True)
class Access:
    """One question to IAM."""

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict, hash=False)


def accesses(service: str, operation: str, given: Mapping[str, Any], region: str, account: str) -> Iterator[Access]:
    """What a call asks for."""
    prefix = SERVICES.get(service, service)
    partition = "aws-cn" if region.startswith("cn-") else "aws"
    names = S3_ACTIONS.get(operation, [operation]) if service == "s3" else [operation]
    place = f"arn:{partition}:{prefix}:{region}:{account}:"
    tags = _tags(given)
    context = {f"aws:RequestTag/{key}": value for key, value in tags.items()}
    for resource in _resources(prefix, given, place, partition):
        for name in names:
            yield Access(f"{prefix}:{name}", resource, context)
        if tags and prefix in TAGGING:
            yield Access(f"{prefix}:{TAGGING[prefix]}", resource, context)
    if role := given.get("ExecutionRoleArn"):
        yield Access("iam:PassRole", role, {"iam:PassedToService": "sagemaker.amazonaws.com"})


def _tags(given: Mapping[str, Any]) -> dict[str, str]:
    tags = given.get("Tags") or given.get("tags") or []
    if isinstance(tags, Mapping):
        return dict(tags)
    return {tag["Key"]: tag["Value"] for tag in tags}


def _resources(service: str, given: Mapping[str, Any], place: str, partition: str) -> list[str]:
    match service:
        case "s3":
            keys = [item["Key"] for item in given["Delete"]["Objects"]] if "Delete" in given else [given.get("Key")]
            found = [f"arn:{partition}:s3:::{given['Bucket']}" + (f"/{key}" if key else "") for key in keys]
        case "iam":
            found = [f"arn:{partition}:iam::{place.split(':')[4]}:role/{given['RoleName']}"]
        case "ecr":
            names = given.get("repositoryNames") or [given.get("repositoryName")]
            found = [given.get("resourceArn") or (f"{place}repository/{name}" if name else "*") for name in names]
        case "cloudwatch":
            names = given.get("AlarmNames") or [given.get("AlarmName")]
            found = [given.get("ResourceARN") or f"{place}alarm:{name}" for name in names]
        case "logs":
            found = [f"{place}log-group:{given['logGroupName']}"]
        case "application-autoscaling":
            found = [f"{place}scalable-target/0a1b2c"]
        case _:
            found = _sagemaker(given, place)
    return found


def _sagemaker(given: Mapping[str, Any], place: str) -> list[str]:
    kinds = {"ModelName": "model", "EndpointName": "endpoint", "EndpointConfigName": "endpoint-config"}
    named = [f"{place}{kind}/{given[key]}" for key, kind in kinds.items() if key in given]
    return named or [given.get("ResourceArn", "*")]


def allows(policy: Mapping[str, Any], access: Access, resource_tags: Mapping[str, str]) -> bool:
    """Whether a statement of the policy allows it; `resource_tags` are those of everything the project made."""
    context = {**access.context, **{f"aws:ResourceTag/{key}": value for key, value in resource_tags.items()}}
    return any(_matches(statement, access, context) for statement in policy["Statement"])


def _matches(statement: Mapping[str, Any], access: Access, context: Mapping[str, str]) -> bool:
    assert statement["Effect"] == "Allow"
    resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
    if access.action not in statement["Action"] or not any(fnmatchcase(access.resource, r) for r in resources):
        return False
    for operator, wanted in statement.get("Condition", {}).items():
        assert operator in ("StringEquals", "StringLike")
        if not all(_holds(operator, context.get(key, ""), value) for key, value in wanted.items()):
            return False
    return True


def _holds(operator: str, found: str, wanted: str | list[str]) -> bool:
    """One of several wanted values is enough."""
    values = [wanted] if isinstance(wanted, str) else wanted
    return found in values if operator == "StringEquals" else any(fnmatchcase(found, value) for value in values)


def deployer_policy(account: Account) -> dict[str, Any]:
    """The policy of who deploys, for the account and its settings."""
    flags = [f"{key}={value}" for key, value in account.settings.items()]
    region = account.settings["region"]
    partition, end = ("aws-cn", ".cn") if region.startswith("cn-") else ("aws", "")
    names = Names(read_settings(None, flags), partition, f"amazonaws.com{end}", region, "123456789012")
    return policy.render("deployer", names)


def asked_by_endpoint(account: Account, calls: list[Call]) -> set[Access]:
    """What SageMaker does with the role of the models in the calls: fetch data and image, write log and metrics."""
    region = account.settings["region"]
    partition = "aws-cn" if region.startswith("cn-") else "aws"
    containers = [call[2]["PrimaryContainer"] for call in calls if call[1] == "CreateModel"]
    keys = [call[2]["Key"] for call in calls if call[1] in ("PutObject", "CompleteMultipartUpload")]
    pull = ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer")
    write = ("CreateLogGroup", "CreateLogStream", "DescribeLogStreams", "PutLogEvents")
    group = f"arn:{partition}:logs:{region}:123456789012:log-group:/aws/sagemaker/Endpoints/djl-container-chat"
    found = {Access("ecr:GetAuthorizationToken", "*")}
    found.add(Access("cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": "/aws/sagemaker/Endpoints"}))
    found |= {Access(f"logs:{action}", group) for action in write}
    for container in containers:
        bucket, _, prefix = container["ModelDataSource"]["S3DataSource"]["S3Uri"].removeprefix("s3://").partition("/")
        place = f"arn:{partition}:s3:::{bucket}"
        found.add(Access("s3:ListBucket", place, {"s3:prefix": prefix}))
        found |= {Access("s3:GetObject", f"{place}/{key}") for key in keys if key.startswith(prefix)}
        host, _, repository = container["Image"].partition("/")
        image = f"arn:{partition}:ecr:{region}:{host.split('.')[0]}:repository/{repository.partition(':')[0]}"
        found |= {Access(f"ecr:{action}", image) for action in pull}
    return found


def asked_for(account: Account, call: Call) -> list[Access]:
    """What a recorded call asks for, but what needs no permission."""
    found = accesses(*call, account.settings["region"], "123456789012")
    return [access for access in found if access.action not in FREE]


def refused(account: Account, calls: list[Call]) -> list[Access]:
    """What the deployer's policy does not allow of what the calls ask for."""
    document, tags = deployer_policy(account), {"djl-container-project": "djl-container"}
    return [a for call in calls for a in asked_for(account, call) if not allows(document, a, tags)]
