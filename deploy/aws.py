"""The only way to AWS: reads are carried out, changes are carried out or, in a dry run, only recorded.

Both take an operation of botocore's service model and its parameters as a plain dictionary, so that what a dry run
prints is what a real one sends; a dry run checks it against that model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import ClientError, NoCredentialsError, ParamValidationError
from botocore.validate import validate_parameters

from deploy.errors import REGION_HINT, ConfigError, DeployError
from deploy.journal import Journal

MISSING = {
    "404", "NoSuchBucket", "NoSuchKey", "NoSuchTagSet", "NoSuchUpload", "NoSuchEntity", "RepositoryNotFoundException",
    "ImageNotFoundException", "ResourceNotFoundException", "ResourceNotFound", "ObjectNotFoundException",
    "NoSuchPublicAccessBlockConfiguration", "NoSuchLifecycleConfiguration",
}  # fmt: skip
PARTITIONS = ("aws", "aws-cn")


@dataclass(frozen=True)
class FilePart:
    """A stretch of a file as the body of a request: read when it is sent, described when it is printed."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """Its bytes. Raises ConfigError where they cannot be read."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.length)
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}; a file has to stay until it is sent") from None

    def describe(self) -> dict[str, object]:
        """What stands for it in printed requests."""
        return {"file": str(self.path), "offset": self.offset, "length": self.length}


class _Pending(dict[str, Any]):
    """The answer to a request that was not sent: every field is `<Operation.Field>`."""

    def __init__(self, operation: str) -> None:
        super().__init__()
        self._operation = operation

    def __missing__(self, key: str) -> str:
        return f"<{self._operation}.{key}>"


class Aws:
    """Calls of one account in one region."""

    def __init__(self, session: boto3.Session, region: str, journal: Journal, attempts: int) -> None:
        self._session = session
        self.region = region or session.region_name or ""
        self.journal = journal
        self._config = Config(
            retries={"mode": "standard", "total_max_attempts": attempts}, connect_timeout=10, read_timeout=70
        )
        self._clients: dict[str, Any] = {}
        self.offline = False
        self.partition, self.domain = self._find_partition()

    def _find_partition(self) -> tuple[str, str]:
        if not self.region:
            raise ConfigError(f"no region is set; {REGION_HINT}")
        known = {name: self._session.get_available_regions("sagemaker", partition_name=name) for name in PARTITIONS}
        for partition, regions in known.items():
            if self.region in regions:
                return partition, "amazonaws.com" + (".cn" if partition == "aws-cn" else "")
        raise ConfigError(f"region {self.region!r} has no SageMaker in the partitions aws and aws-cn; {REGION_HINT}")

    @cached_property
    def account(self) -> str:
        """The account of the credentials; without credentials, in a dry run, twelve zeros."""
        identity = self.read("sts", "GetCallerIdentity")
        return str(identity["Account"]) if identity else "0" * 12

    def client(self, service: str) -> Any:
        """The boto3 client of a service; one for all threads."""
        if service not in self._clients:
            create: Any = self._session.client
            try:
                self._clients[service] = create(service, region_name=self.region, config=self._config)
            except ValueError as error:  # botocore's, of an address
                raise ConfigError(f"{error}; correct AWS_ENDPOINT_URL, or endpoint_url of the profile") from None
        return self._clients[service]

    def read(self, service: str, operation: str, **parameters: Any) -> dict[str, Any] | None:
        """The answer, or None where there is no such thing. A dry run without credentials finds nothing at all."""
        if self.offline:
            return None
        try:
            return self._send(service, operation, parameters)
        except ClientError as error:
            if _is_missing(error):
                return None
            raise
        except NoCredentialsError:
            if not self.journal.dry_run:
                raise
            self.offline = True
            return None

    def ask(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """The answer; that there is no such thing is an error."""
        return self._send(service, operation, parameters)

    def pages(self, service: str, operation: str, key: str, **parameters: Any) -> Iterator[Any]:
        """All items under `key` of every page of a listing; none where there is no such thing."""
        if self.offline:
            return
        try:
            for page in self.client(service).get_paginator(xform_name(operation)).paginate(**parameters):
                yield from page.get(key, [])
        except ClientError as error:
            if not _is_missing(error):
                raise

    def change(self, service: str, operation: str, **parameters: Any) -> Mapping[str, Any]:
        """Change something, and record it. A part of a file may be a parameter."""
        self._check(service, operation, parameters)
        described = {name: v.describe() if isinstance(v, FilePart) else v for name, v in parameters.items()}
        if self.journal.dry_run:
            self.journal.note(service=service, operation=operation, parameters=described)
            return _Pending(operation)
        answer = self._send(service, operation, parameters)
        self.journal.note(service=service, operation=operation, parameters=described)
        return answer

    def _check(self, service: str, operation: str, parameters: Mapping[str, Any]) -> None:
        shape = self.client(service).meta.service_model.operation_model(operation).input_shape
        bodies = {name: b"" if isinstance(value, FilePart) else value for name, value in parameters.items()}
        try:
            validate_parameters(bodies, shape)
        except ParamValidationError as error:
            raise DeployError(f"{operation} cannot be sent: {error}") from None

    def _send(self, service: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        call = getattr(self.client(service), xform_name(operation))
        answer: dict[str, Any] = call(**{n: v.read() if isinstance(v, FilePart) else v for n, v in parameters.items()})
        return answer


def _is_missing(error: ClientError) -> bool:
    details = error.response["Error"]
    code, message = str(details.get("Code", "")), str(details.get("Message", ""))
    return code in MISSING or (code == "ValidationException" and message.startswith("Could not find"))
