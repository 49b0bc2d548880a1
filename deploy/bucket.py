"""The S3 bucket: made private and tagged where it is the project's own, emptied only of the project's objects."""

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from deploy.aws import Aws
from deploy.errors import ADVICE, ConfigError, DeployError
from deploy.names import TAG, Names
from deploy.progress import say

PRIVATE = {"BlockPublicAcls": True, "IgnorePublicAcls": True, "BlockPublicPolicy": True, "RestrictPublicBuckets": True}
LIFECYCLE = {
    "Rules": [
        {
            "ID": "abort-unfinished-uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
        }
    ]
}
MOST_DELETED = 1000  # keys of one DeleteObjects, says S3


def ensure(aws: Aws, names: Names) -> None:
    """Make the project's own bucket, or what an interrupted run left out of it; a named bucket has to be there."""
    there = _exists(aws, names)
    if not names.owns_bucket:
        if not there:
            raise ConfigError(f"bucket {names.bucket!r} does not exist; make it, or leave `bucket` empty")
        return
    place = {"Bucket": names.bucket}
    if not there:
        where = {} if aws.region == "us-east-1" else {"LocationConstraint": aws.region}
        aws.change("s3", "CreateBucket", **place, CreateBucketConfiguration={**where, "Tags": names.tag_list})
        # again, for an S3 that passes over the tags of CreateBucket: without its tag the bucket is somebody else's
        aws.change("s3", "PutBucketTagging", **place, Tagging={"TagSet": names.tag_list})
        say(f"made the bucket {names.bucket}")
    elif not _is_mine(aws, names, "GetBucketTagging"):
        raise ConfigError(
            f"bucket {names.bucket!r} exists and is not of this project (it has no tag {TAG}={names.settings.name}); "
            "to send to it all the same, or to another one: --set bucket=NAME"
        )
    if not aws.read("s3", "GetPublicAccessBlock", **place):
        aws.change("s3", "PutPublicAccessBlock", **place, PublicAccessBlockConfiguration=PRIVATE)
    if not aws.read("s3", "GetBucketLifecycleConfiguration", **place):
        aws.change("s3", "PutBucketLifecycleConfiguration", **place, LifecycleConfiguration=LIFECYCLE)


def _exists(aws: Aws, names: Names) -> bool:
    try:
        found = aws.read("s3", "HeadBucket", Bucket=names.bucket, ExpectedBucketOwner=aws.account)
    except ClientError as error:
        if error.response["Error"]["Code"] == "403":
            raise ConfigError(
                f"bucket {names.bucket!r} belongs to another account, or these credentials may not list it; name "
                "another one: --set bucket=NAME"
            ) from None
        raise
    if found and (region := found.get("BucketRegion", aws.region)) != aws.region:
        raise ConfigError(
            f"bucket {names.bucket!r} is in {region}, not in {aws.region}; name one there: --set bucket=NAME"
        )
    return found is not None


def is_owned(aws: Aws, names: Names) -> bool:
    """Whether the bucket is there and the project's to delete."""
    return names.owns_bucket and _is_mine(aws, names, "GetBucketTagging")


def owned_keys(aws: Aws, names: Names) -> list[str]:
    """The project's keys in the bucket."""
    found = aws.pages("s3", "ListObjectsV2", "Contents", Bucket=names.bucket, Prefix=names.prefix)
    return [item["Key"] for item in found if _is_mine(aws, names, "GetObjectTagging", Key=item["Key"])]


def unfinished(aws: Aws, names: Names) -> list[dict[str, str]]:
    """Uploads under the project's prefix that were not completed, as `AbortMultipartUpload` takes them."""
    found = aws.pages("s3", "ListMultipartUploads", "Uploads", Bucket=names.bucket, Prefix=names.prefix)
    return [{"Bucket": names.bucket, "Key": left["Key"], "UploadId": left["UploadId"]} for left in found]


def _is_mine(aws: Aws, names: Names, operation: str, **key: str) -> bool:
    tagging: Mapping[str, Any] = aws.read("s3", operation, Bucket=names.bucket, **key) or {"TagSet": []}
    return names.owns(tagging["TagSet"])


def delete_objects(aws: Aws, names: Names, keys: list[str]) -> None:
    """Delete the keys. Raises DeployError naming the first that S3 did not delete."""
    for start in range(0, len(keys), MOST_DELETED):
        objects = [{"Key": key} for key in keys[start : start + MOST_DELETED]]
        delete = {"Objects": objects, "Quiet": True}
        answer = aws.change("s3", "DeleteObjects", Bucket=names.bucket, Delete=delete)
        if refused := answer.get("Errors"):
            key, code, message = (refused[0].get(name, "") for name in ("Key", "Code", "Message"))
            raise DeployError(
                f"S3 did not delete {len(refused)} of {len(objects)} objects, such as {key}: {code}: {message}; "
                f"{ADVICE.get(code, 'run the command again')}"
            )


def delete(aws: Aws, names: Names, keys: list[str]) -> None:
    """Delete the bucket, unless something of others is in it; the keys are deleted, or would be after a dry run."""
    remaining = aws.pages("s3", "ListObjectsV2", "Contents", Bucket=names.bucket)
    if others := [item["Key"] for item in remaining if item["Key"] not in keys]:
        say(f"kept the bucket {names.bucket}: it holds {len(others)} objects of others, such as {others[0]}")
    else:
        aws.change("s3", "DeleteBucket", Bucket=names.bucket)
