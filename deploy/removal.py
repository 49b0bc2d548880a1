"""What the project has in the account, and its removal: only what carries the project's tag."""

from dataclasses import dataclass
from typing import Any

from deploy import bucket, definitions, image, scaling, upload
from deploy.aws import Aws
from deploy.endpoint import Endpoint
from deploy.errors import ConfigError
from deploy.names import Names
from deploy.progress import say


@dataclass(frozen=True)
class Belongings:
    """What there is of one endpoint."""

    endpoint: Endpoint
    exists: bool
    scaled: bool
    alarms: list[str]
    configs: list[str]
    models: list[str]

    def lines(self) -> list[str]:
        """Each thing in words."""
        name = self.endpoint.name
        return [
            *([f"endpoint {name}"] if self.exists else []),
            *([f"autoscaling of {name}"] if self.scaled else []),
            *(f"alarm {alarm}" for alarm in self.alarms),
            *(f"endpoint configuration {config}" for config in self.configs),
            *(f"model {model}" for model in self.models),
        ]

    def delete(self) -> None:
        """Remove it, in the order in which nothing refers to what is gone."""
        aws, names, service = self.endpoint.aws, self.endpoint.names, self.endpoint.service
        if self.scaled:
            aws.change(scaling.SCALING, "DeregisterScalableTarget", **definitions.variant(names, service))
        if self.exists:
            self.endpoint.delete()
        if self.alarms:
            aws.change("cloudwatch", "DeleteAlarms", AlarmNames=self.alarms)
        self.endpoint.remove_unused("", "")


def of_endpoint(endpoint: Endpoint) -> Belongings:
    """What there is of an endpoint. Raises ConfigError when it is somebody else's."""
    exists = endpoint.describe() is not None
    scaled = scaling.target(endpoint.aws, endpoint.names, endpoint.service) is not None
    return Belongings(endpoint, exists, scaled, _alarms(endpoint), endpoint.configs(), endpoint.models())


def of_project(endpoint: Endpoint) -> Belongings:
    """What the project has of an endpoint, which may be somebody else's itself."""
    try:
        return of_endpoint(endpoint)
    except ConfigError:
        say(f"kept the endpoint {endpoint.name}: it is not of this project")
        return Belongings(endpoint, False, False, _alarms(endpoint), endpoint.configs(), endpoint.models())


def _alarms(endpoint: Endpoint) -> list[str]:
    found = endpoint.aws.read("cloudwatch", "DescribeAlarms", AlarmNames=[endpoint.names.alarm(endpoint.service)])
    return [alarm["AlarmName"] for alarm in found["MetricAlarms"] if _owns(endpoint, alarm)] if found else []


def _owns(endpoint: Endpoint, alarm: dict[str, Any]) -> bool:
    tags = endpoint.aws.read("cloudwatch", "ListTagsForResource", ResourceARN=alarm["AlarmArn"])
    return endpoint.names.owns(tags["Tags"] if tags else [])


@dataclass(frozen=True)
class Storage:
    """What there is in S3 and ECR."""

    aws: Aws
    names: Names
    keys: list[str]
    uploads: list[dict[str, str]]
    bucket: bool
    repository: bool

    def lines(self) -> list[str]:
        """Each thing in words."""
        place = f"under s3://{self.names.bucket}/{self.names.prefix}"
        return [
            *([f"{len(self.keys)} objects {place}"] if self.keys else []),
            *([f"{len(self.uploads)} unfinished uploads {place}"] if self.uploads else []),
            *([f"bucket {self.names.bucket}"] if self.bucket else []),
            *([f"repository {self.names.repository} with its images"] if self.repository else []),
        ]

    def delete(self) -> None:
        """Remove it."""
        bucket.delete_objects(self.aws, self.names, self.keys)
        for unfinished in self.uploads:
            upload.abort(self.aws, unfinished)
        if self.bucket:
            bucket.delete(self.aws, self.names, self.keys)
        if self.repository:
            image.delete(self.aws, self.names)


def of_storage(aws: Aws, names: Names) -> Storage:
    """What there is in S3 and ECR."""
    return Storage(
        aws,
        names,
        keys=bucket.owned_keys(aws, names),
        uploads=bucket.unfinished(aws, names),
        bucket=bucket.is_owned(aws, names),
        repository=names.owns_repository and image.owned(aws, names),
    )
