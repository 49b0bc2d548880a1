"""Names, addresses and tags of everything that is created, worked out from the settings and the account.

A definition that can never change in AWS carries a checksum of itself in its name: the same settings give the same
name, so that a second run finds what the first one made.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy.settings import ServiceName, Settings

TAG = "djl-container-project"
VARIANT = "AllTraffic"
# Accounts of the DJL images of AWS (its list of Deep Learning Container images).
STOCK_ACCOUNTS = {"aws": "763104351884", "aws-cn": "727897471807"}


@dataclass(frozen=True)
class Names:
    """Of one project in one region of one account; `domain` is that of the partition."""

    settings: Settings
    partition: str
    domain: str
    region: str
    account: str

    @property
    def bucket(self) -> str:
        """The bucket in the settings, or the project's own."""
        return self.settings.bucket or f"{self.settings.name}-{self.account}-{self.region}"

    @property
    def owns_bucket(self) -> bool:
        """Whether the commands create and delete the bucket."""
        return not self.settings.bucket

    @property
    def prefix(self) -> str:
        """Start of every key in the bucket."""
        return f"{self.settings.name}/"

    @property
    def repository(self) -> str:
        """The ECR repository."""
        return self.settings.image.repository or self.settings.name

    @property
    def owns_repository(self) -> bool:
        """Whether the commands create and delete the repository."""
        return not self.settings.image.repository

    def image(self, tag: str) -> str:
        """Address of the custom image."""
        registry = self.settings.image.registry or self._registry(self.account)
        return f"{registry}/{self.repository}:{tag}"

    @property
    def stock_image(self) -> str:
        """Address of the DJL image of AWS."""
        image = self.settings.chat.stock_image
        return image if "/" in image else f"{self._registry(STOCK_ACCOUNTS[self.partition])}/{image}"

    def _registry(self, account: str) -> str:
        return f"{account}.dkr.ecr.{self.region}.{self.domain}"

    def endpoint(self, service: ServiceName) -> str:
        """Name of an endpoint."""
        return f"{self.settings.name}-{service}"

    def versioned(self, service: ServiceName, definition: Mapping[str, Any]) -> str:
        """Name of a model or endpoint configuration: the endpoint's and a checksum of the definition."""
        return f"{self.endpoint(service)}-{checksum(definition)}"

    def alarm(self, service: ServiceName) -> str:
        """Name of the alarm that rolls an update back."""
        return f"{self.endpoint(service)}-5xx"

    def log_group(self, service: ServiceName) -> str:
        """Where SageMaker writes what the containers print."""
        return f"/aws/sagemaker/Endpoints/{self.endpoint(service)}"

    @property
    def tags(self) -> dict[str, str]:
        """The tag that marks the project's own, and those in the settings."""
        return {**self.settings.tags, TAG: self.settings.name}

    @property
    def tag_list(self) -> list[dict[str, str]]:
        """The tags as most services take them."""
        return [{"Key": key, "Value": value} for key, value in self.tags.items()]

    def owns(self, tags: list[Mapping[str, str]]) -> bool:
        """Whether the tags of a thing (in either spelling of AWS) say that this project made it."""
        pairs = {tag.get("Key", tag.get("key")): tag.get("Value", tag.get("value")) for tag in tags}
        return pairs.get(TAG) == self.settings.name


def checksum(definition: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits that change with the definition."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:10]
