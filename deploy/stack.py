"""The whole way in order: weights, image, endpoints. Each step looks first and does only what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from deploy import bucket, denoiser_data, image, package, scaling, upload, weights
from deploy.aws import Aws
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

    def image(self, service: ServiceName) -> str:
        """Address of the endpoint's image."""
        return self.names.stock_image if self.is_stock(service) else self.custom_image

    def data(self, service: ServiceName) -> str:
        """Address of the endpoint's model data."""
        return weights.uri(self.names) if service == "chat" else denoiser_data.uri(self.names)

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
            package.send(self.aws, self.names, package.build(self.package_path()), data["chat"])
        return data

    def ensure_image(self) -> None:
        """Build and push the custom image, unless the repository has it."""
        if not image.is_pushed(self.aws, self.names, self.custom_image):
            image.build(self.aws, self.names, self.custom_image)
        image.push(self.aws, self.names, self.custom_image)

    def package_path(self) -> Path:
        """Where the archive is kept that is sent."""
        return self.settings.weights.cache_dir.expanduser() / "package" / "model.tar.gz"

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
        made = {name: self.endpoint(name).ensure(self.image(name), data[name]) for name in services}
        for service in services:
            self.finish(service, *self.endpoint(service).definition(self.image(service), data[service]))
        return {self.names.endpoint(service): what for service, what in made.items()}

    def finish(self, service: ServiceName, config: str, model: str) -> None:
        """Wait until the endpoint serves that definition, remove the one before, bring autoscaling to its own."""
        self.endpoint(service).finish_update(config, model)
        scaling.ensure(self.aws, self.names, service, self.settings.service(service).autoscaling)

    def require_artifacts(self, service: ServiceName) -> tuple[str, str]:
        """Image and model data of an endpoint. Raises ConfigError naming the command that brings what is missing."""
        address, data = self.image(service), self.data(service)
        needed = [data + (weights.MARK if service == "chat" else denoiser_data.MARK)]
        if service == "chat" and self.settings.chat.packaged:
            needed.append(package.uri(self.names, data))
        for uri in [] if self.aws.offline else needed:
            if not upload.is_there(self.aws, uri):
                raise ConfigError(f"{uri} is not there; run: python -m deploy weights upload {service}")
        if not self.aws.offline and not self.is_stock(service) and not image.is_pushed(self.aws, self.names, address):
            raise ConfigError(f"{address} is not pushed; run: python -m deploy image build, image push")
        return address, data
