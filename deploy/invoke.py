"""Questions to an endpoint: the body in the service's own contract, the reply whole or as it comes."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError, EventStreamError
from urllib3.exceptions import HTTPError

from deploy.aws import Aws
from deploy.errors import DeployError
from deploy.settings import ServiceName

QUESTION = Path(__file__).with_name("question.txt")
RUNTIME = "sagemaker-runtime"


def body(service: ServiceName, text: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The request of a service for a text."""
    if service == "denoiser":
        return {"texts": [text], **parameters}
    return {"inputs": text, "parameters": dict(parameters), "history": []}


def invoke(aws: Aws, endpoint: str, content: Mapping[str, Any]) -> Any:
    """The reply, as parsed JSON. Raises DeployError with what the container said."""
    answer = _ask(aws, "InvokeEndpoint", endpoint, content, Accept="application/json")
    raw = answer["Body"].read()
    try:
        return json.loads(raw)
    except ValueError:
        raise DeployError(f"{endpoint} answered with what is no JSON: {raw[:200]!r}") from None


def stream(aws: Aws, endpoint: str, content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a streamed reply, each as soon as its line is whole."""
    answer = _ask(aws, "InvokeEndpointWithResponseStream", endpoint, content)
    try:
        yield from objects(event["PayloadPart"]["Bytes"] for event in answer["Body"] if "PayloadPart" in event)
    except (EventStreamError, HTTPError) as error:
        raise DeployError(f"{endpoint} broke off its answer: {error}; see: python -m deploy endpoint logs") from None


def objects(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Newline-delimited JSON out of chunks that are cut anywhere, even inside a character. Raises DeployError."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (_object(line) for line in lines if line.strip())
    if rest.strip():
        yield _object(rest)


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise DeployError(
            f"the answer is no JSON or ends in the middle: {line[-80:]!r}; see: python -m deploy endpoint logs"
        )
    return value


def _ask(aws: Aws, operation: str, endpoint: str, content: Mapping[str, Any], **options: str) -> dict[str, Any]:
    data = json.dumps(content, ensure_ascii=False).encode()
    try:
        return aws.ask(RUNTIME, operation, EndpointName=endpoint, ContentType="application/json", Body=data, **options)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ModelError":
            raise
        said = error.response.get("OriginalMessage") or error.response["Error"]["Message"]
        status = error.response.get("OriginalStatusCode", "an error")
        raise DeployError(f"{endpoint} answered {status}: {said}") from None
