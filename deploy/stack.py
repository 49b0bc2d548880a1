"""The whole way in order: weights, image, endpoints. Each step looks first and does only what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from deploy import bucket, denoiser_data, image, package, scaling, upload, weights
from deploy.aws import Aws
from deploy.definitions import Artifacts
from deploy.endpoint import Endpoint, check_role
from deploy.errors import ConfigError
from deploy.names import Names
from deploy.settings import ServiceName, Settings


@dataclass(frozen=True)
class Stack:
    """What the settings describe, in one account and region."""

    aws: Aws
    names: Names

    @property
    def settings(self) -> Settings:
        """All settings."""
        return self.names.settings

    def endpoint(self, service: ServiceName) -> Endpoint:
        """One of its endpoints."""
        return Endpoint(self.aws, self.names, service)

    def is_stock(self, service: ServiceName) -> bool:
        """Whether the endpoint runs the DJL image of AWS."""
        return service == "chat" and self.settings.chat.image == "stock"

    @cached_property
    def custom_image(self) -> str:
        """Address of the custom image: the same in all of a run, whatever becomes of its sources meanwhile."""
        return image.address(self.names)

    @cached_property
    def archive(self) -> package.Archive:
        """The handler for the stock image: the same in all of a run too."""
        return package.build()

    def artifacts(self, service: ServiceName, data: str) -> Artifacts:
        """Addresses of what the endpoint runs, with the model data at `data`."""
        image = self.names.stock_image if self.is_stock(service) else self.custom_image
        packaged = service == "chat" and self.settings.chat.packaged
        return Artifacts(image, data, package.uri(self.names, self.archive) if packaged else "")

    def prepare_weights(self) -> None:
        """Download and convert what is not here yet."""
        if not weights.in_s3(self.settings.weights):
            weights.download(self.settings, self.aws.journal)
            weights.convert(self.settings, self.aws.journal)

    def send_data(self, services: Sequence[ServiceName]) -> dict[ServiceName, str]:
        """Bring the services' model data to S3: the prefix of each."""
        chat = self.settings.chat.packaged or not weights.in_s3(self.settings.weights)
        needed = {"chat": chat, "denoiser": not denoiser_data.in_s3(self.settings)}
        if any(needed[service] for service in services):
            bucket.ensure(self.aws, self.names)
        send = {"chat": weights.send, "denoiser": denoiser_data.send}
        data = {service: send[service](self.aws, self.names) for service in services}
        if "chat" in data and self.settings.chat.packaged:
            package.send(self.aws, self.names, self.archive)
        return data

    def ensure_image(self) -> None:
        """Build and push the custom image, unless the repository has it."""
        if not image.is_pushed(self.aws, self.names, self.custom_image):
            image.build(self.aws, self.names, self.custom_image)
        image.push(self.aws, self.names, self.custom_image)

    def up(self) -> dict[str, Any]:
        """All of it; what became of each endpoint."""
        services = self.settings.enabled()
        if services:
            check_role(self.aws, self.names)
        if "chat" in services:
            self.prepare_weights()
        data = self.send_data(services)
        if not all(self.is_stock(service) for service in services):
            self.ensure_image()
        artifacts = {service: self.artifacts(service, data[service]) for service in services}
        made = {service: self.endpoint(service).ensure(artifacts[service]) for service in services}
        for service in services:
            self.finish(service, *self.endpoint(service).definition(artifacts[service]))
        return {self.names.endpoint(service): what for service, what in made.items()}

    def finish(self, service: ServiceName, config: str, model: str) -> None:
        """Wait until the endpoint serves that definition, remove the one before, bring autoscaling to its own."""
        self.endpoint(service).finish_update(config, model)
        scaling.ensure(self.aws, self.names, service, self.settings.service(service).autoscaling)
        self.endpoint(service).ensure_alarm()

    def require_artifacts(self, service: ServiceName) -> Artifacts:
        """Of one endpoint. Raises ConfigError naming the command that brings what is missing."""
        source = weights if service == "chat" else denoiser_data
        found = self.artifacts(service, source.uri(self.names))
        if self.aws.offline:
            return found
        for uri in filter(None, [found.data + source.MARK, found.package]):
            if not upload.is_there(self.aws, uri):
                raise ConfigError(f"{uri} is not there; run: python -m deploy weights upload {service}")
        if not self.is_stock(service) and not image.is_pushed(self.aws, self.names, found.image):
            raise ConfigError(f"{found.image} is not pushed; run: python -m deploy image build, image push")
        return found
