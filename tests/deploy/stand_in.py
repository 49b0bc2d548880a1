"""A stand-in for AWS, over HTTP: moto's server, and in front of it what moto lacks or does otherwise than AWS.

Its own replies, and the requests they answer, are checked against botocore's service model. Its part: UpdateEndpoint,
the states an endpoint goes through, duplicate models, tags on a scalable target that exists, streamed invocations
(passed on to a real service, cut anywhere), checksums of S3, tags of CreateBucket, images in ECR (asked of a real
registry, where there is one), and failures on order.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote

import botocore.session
import httpx
from botocore.model import ServiceModel
from botocore.validate import validate_parameters
from moto.server import ThreadedMotoServer

from tests.deploy import event_stream

LOGIN = ("AWS", "123456789012-auth-token")  # what moto gives out for ECR
JSON = "application/x-amz-json-1.1"
COUNTING = threading.Lock()
SKIPPED = {"host", "connection", "content-length", "transfer-encoding", "expect", "accept-encoding", "content-encoding"}
S3_OPERATIONS = {  # method, kind of resource, first parameter of the query
    ("HEAD", "bucket", ""): "HeadBucket",
    ("PUT", "bucket", ""): "CreateBucket",
    ("PUT", "bucket", "tagging"): "PutBucketTagging",
    ("PUT", "bucket", "publicAccessBlock"): "PutPublicAccessBlock",
    ("PUT", "bucket", "lifecycle"): "PutBucketLifecycleConfiguration",
    ("PUT", "object", ""): "PutObject",
    ("POST", "object", "uploads"): "CreateMultipartUpload",
    ("PUT", "object", "partNumber"): "UploadPart",
    ("PUT", "object", "uploadId"): "UploadPart",
    ("POST", "object", "uploadId"): "CompleteMultipartUpload",
    ("DELETE", "object", "uploadId"): "AbortMultipartUpload",
}


@dataclass
class Failure:
    """An error to answer with instead; without a code the connection breaks."""

    code: str = ""
    message: str = ""
    status: int = 400
    times: int = 1
    late: bool = False
    """The request is carried out first: the caller is cut off after the step, not before it."""


@dataclass
class StandIn:
    """What it does otherwise; tests set the fields, and read what came in."""

    moto: str
    url: str = ""
    failures: dict[str, Failure] = field(default_factory=dict)
    """By operation."""
    states: list[str] = field(default_factory=list)
    """What DescribeEndpoint says, in turn, before it says what moto does."""
    reason: str = ""
    """FailureReason of endpoints."""
    failing_updates: bool = False
    hold: threading.Event = field(default_factory=threading.Event)
    pause_after: int | None = None
    """After so many parts of uploads, the next ones wait for `hold`."""
    corrupt: bool = False
    """Bodies arrive at S3 damaged."""
    service: str = ""
    """The real service that answers invocations."""
    cut: int = 7
    """Most bytes in a piece of a streamed answer."""
    registry: str = ""
    """The real registry behind ECR."""
    token: str = ""
    """The login to ECR that is given out instead of moto's."""
    wire: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """JSON requests as they came: operation and parameters."""
    counts: Counter[str] = field(default_factory=Counter)
    """Requests by operation."""
    configs: dict[str, str] = field(default_factory=dict)
    """Configuration of each updated endpoint."""
    changed: dict[str, float] = field(default_factory=dict)
    """When each endpoint was last updated or scaled."""

    def reset(self) -> None:
        """Forget everything, in moto too."""
        httpx.post(f"{self.moto}/moto-api/reset")
        self.__dict__.update(StandIn(self.moto, self.url).__dict__)


@cache
def model(service: str) -> ServiceModel:
    """Botocore's model of a service."""
    return botocore.session.get_session().get_service_model(service)


def check(service: str, operation: str, value: dict[str, Any], side: str) -> None:
    """Raises ParamValidationError when botocore's model has another shape on that side of the operation."""
    found = model(service).operation_model(operation)
    shape = found.input_shape if side == "input" else found.output_shape
    assert shape is not None
    validate_parameters(value, shape)


@contextlib.contextmanager
def running() -> Iterator[StandIn]:
    """Moto and the stand-in, each on a port of its own."""
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    stand_in = StandIn(f"http://{host}:{port}")
    client = httpx.Client(timeout=60, trust_env=False)
    parts = {"stand_in": stand_in, "client": client}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), parts))
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield stand_in
    finally:
        stand_in.hold.set()
        server.shutdown()
        thread.join()
        server.server_close()
        client.close()
        moto.stop()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    stand_in: StandIn
    client: httpx.Client

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def handle_expect_100(self) -> bool:
        """Tell boto3 at once to send its body: it waits a second for that."""
        told = super().handle_expect_100()
        self.wfile.flush()
        return told

    def do_GET(self) -> None:
        self._handle()

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        operation = self._operation(body)
        stand_in = self.stand_in
        with COUNTING:
            stand_in.counts[operation] += 1
            number = stand_in.counts[operation]
        if self.headers.get("X-Amz-Target"):
            stand_in.wire.append((operation, json.loads(body or b"{}")))
        if (failure := stand_in.failures.get(operation)) and failure.times > 0:
            failure.times -= 1
            if failure.late:
                self._forward(body)
            self._error(failure)
        elif own := getattr(self, f"_own_{operation}", None):
            own(json.loads(body or b"{}"))
        elif operation == "UploadPart" and self._is_abandoned(number):
            self.close_connection = True
        elif operation in ("PutObject", "UploadPart"):
            self._receive(body)
        elif "/invocations" in self.path:
            self._invoke(body)
        else:
            self._pass_on(body)

    def _operation(self, body: bytes) -> str:
        if target := self.headers.get("X-Amz-Target"):
            return str(target).rpartition(".")[2]
        if "/operation/" in self.path:
            return self.path.rpartition("/")[2]
        if body.startswith(b"Action="):
            return parse_qs(body.decode())["Action"][0]
        path, _, query = self.path.partition("?")
        kind = "bucket" if path.strip("/").count("/") == 0 else "object"
        return S3_OPERATIONS.get((self.command, kind, query.partition("=")[0]), f"{self.command} {self.path}")

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            if key.lower() not in SKIPPED:
                self.send_header(key, value)
        length = headers.get("content-length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if self.command != "HEAD":
                self.wfile.write(content)

    def _error(self, failure: Failure) -> None:
        if not failure.code:
            self.close_connection = True
            return
        if self.headers.get("X-Amz-Target"):
            content, kind = json.dumps({"__type": failure.code, "message": failure.message}), JSON
        else:
            content = f"<Error><Code>{failure.code}</Code><Message>{failure.message}</Message></Error>"
            kind = "application/xml"
        self._answer(failure.status, content.encode(), {"Content-Type": kind})

    def _forward(self, body: bytes) -> httpx.Response:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in SKIPPED - {"content-encoding"}}
        url = self.stand_in.moto + self.path
        answer = self.client.request(self.command, url, headers=headers, content=body)
        if self._operation(body) == "CreateBucket" and (tags := re.search(b"<Tags>(.*)</Tags>", body)):
            tagging = b"<Tagging><TagSet>%s</TagSet></Tagging>" % tags[1]
            self.client.put(f"{url}?tagging", headers=headers, content=tagging).raise_for_status()
        return answer

    def _pass_on(self, body: bytes) -> None:
        answer = self._forward(body)
        self._answer(answer.status_code, answer.content, dict(answer.headers))

    def _reply(self, service: str, operation: str, reply: dict[str, Any]) -> None:
        check(service, operation, reply, "output")
        self._answer(200, json.dumps(reply).encode(), {"Content-Type": JSON})

    def _is_abandoned(self, number: int) -> bool:
        """Hold the part where a test wants that; whether its sender is gone by then, so that it never arrives."""
        pause = self.stand_in.pause_after
        if pause is None or number <= pause:
            return False
        self.stand_in.hold.wait(60)
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    def _receive(self, body: bytes) -> None:
        """S3 refuses a body that does not match its checksum."""
        arrived = body[:-1] + b"?" if self.stand_in.corrupt else body
        digest = base64.b64encode(hashlib.sha256(arrived).digest()).decode()
        if self.headers.get("x-amz-checksum-sha256", digest) != digest:
            self._error(Failure("BadDigest", "The SHA256 you specified did not match the calculated checksum."))
        else:
            self._pass_on(body)

    def _own_CreateModel(self, request: dict[str, Any]) -> None:  # noqa: N802 - named after the operation
        if self._look("SageMaker.DescribeModel", {"ModelName": request["ModelName"]}).status_code == 200:
            message = f"Cannot create already existing model {request['ModelName']}."
            self._error(Failure("ValidationException", message))
        else:
            self._pass_on(json.dumps(request).encode())

    def _own_RegisterScalableTarget(self, request: dict[str, Any]) -> None:  # noqa: N802
        place = {"ServiceNamespace": request["ServiceNamespace"], "ResourceIds": [request["ResourceId"]]}
        found = self._look("AnyScaleFrontendService.DescribeScalableTargets", place).json()["ScalableTargets"]
        if found and request.get("Tags"):
            message = (
                "The scalable target that you tried to tag already exists. To update tags on an existing scalable "
                "target, use the TagResource API."
            )
            self._error(Failure("ValidationException", message))
        else:
            self._pass_on(json.dumps(request).encode())

    def _look(self, target: str, lookup: dict[str, Any]) -> httpx.Response:
        """What moto says to another request than the one that came."""
        headers = {"X-Amz-Target": target, "Content-Type": JSON, "Authorization": self.headers["Authorization"]}
        return self.client.post(self.stand_in.moto, headers=headers, json=lookup)

    def _own_UpdateEndpoint(self, request: dict[str, Any]) -> None:  # noqa: N802
        check("sagemaker", "UpdateEndpoint", request, "input")
        self.stand_in.changed[request["EndpointName"]] = time.time()
        if self.stand_in.failing_updates:
            self.stand_in.states = ["Updating", "RollingBack"]
        else:
            self.stand_in.states = ["Updating"]
            self.stand_in.configs[request["EndpointName"]] = request["EndpointConfigName"]
        arn = f"arn:aws:sagemaker:us-east-1:123456789012:endpoint/{request['EndpointName']}"
        self._reply("sagemaker", "UpdateEndpoint", {"EndpointArn": arn})

    def _own_UpdateEndpointWeightsAndCapacities(self, request: dict[str, Any]) -> None:  # noqa: N802
        self.stand_in.changed[request["EndpointName"]] = time.time()
        self._pass_on(json.dumps(request).encode())

    def _own_DescribeEndpoint(self, request: dict[str, Any]) -> None:  # noqa: N802
        answer = self._forward(json.dumps(request).encode())
        if answer.status_code != 200:
            self._answer(answer.status_code, answer.content, dict(answer.headers))
            return
        reply = answer.json()
        reply.pop("DataCaptureConfig", None)  # moto's is empty, which is no reply of AWS
        reply["EndpointConfigName"] = self.stand_in.configs.get(reply["EndpointName"], reply["EndpointConfigName"])
        reply["LastModifiedTime"] = self.stand_in.changed.get(reply["EndpointName"], reply["LastModifiedTime"])
        if self.stand_in.states:
            stays = self.stand_in.states == ["Failed"]
            reply["EndpointStatus"] = self.stand_in.states[0] if stays else self.stand_in.states.pop(0)
        if self.stand_in.reason:
            reply["FailureReason"] = self.stand_in.reason
        self._reply("sagemaker", "DescribeEndpoint", reply)

    def _own_DeleteEndpoint(self, request: dict[str, Any]) -> None:  # noqa: N802
        self.stand_in.configs.pop(request["EndpointName"], None)
        self.stand_in.changed.pop(request["EndpointName"], None)
        self.stand_in.states = []
        self._pass_on(json.dumps(request).encode())

    def _own_GetAuthorizationToken(self, request: dict[str, Any]) -> None:  # noqa: N802
        if self.stand_in.token:
            data = [{"authorizationToken": self.stand_in.token}]
            self._reply("ecr", "GetAuthorizationToken", {"authorizationData": data})
        else:
            self._pass_on(json.dumps(request).encode())

    def _own_DescribeImages(self, request: dict[str, Any]) -> None:  # noqa: N802
        name, tag = request["repositoryName"], request["imageIds"][0]["imageTag"]
        if not self.stand_in.registry:
            self._pass_on(json.dumps(request).encode())
            return
        accept = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
        found = self.client.head(
            f"{self.stand_in.registry}/v2/{name}/manifests/{tag}", headers={"Accept": accept}, auth=LOGIN
        )
        if found.status_code != 200:
            self._error(Failure("ImageNotFoundException", f"The image with tag {tag} does not exist."))
            return
        details = {"repositoryName": name, "imageTags": [tag], "imageDigest": found.headers["Docker-Content-Digest"]}
        self._reply("ecr", "DescribeImages", {"imageDetails": [details]})

    def _invoke(self, body: bytes) -> None:
        name = unquote(self.path.split("/")[2])
        try:
            url = f"{self.stand_in.service}/invocations"
            with self.client.stream("POST", url, content=body, headers={"Content-Type": "application/json"}) as answer:
                if answer.status_code != 200:
                    self._model_error(name, answer.status_code, answer.read().decode())
                elif self.path.endswith("response-stream"):
                    self._stream(answer)
                else:
                    self._answer(200, answer.read(), {"Content-Type": "application/json"})
        except httpx.TransportError as error:
            self._model_error(name, 500, str(error))

    def _model_error(self, name: str, status: int, said: str) -> None:
        fields = {"OriginalStatusCode": status, "OriginalMessage": said, "LogStreamArn": "arn"}
        message = f"Received client error ({status}) from primary of {name}"
        content = json.dumps({"Message": message, **fields}).encode()
        self._answer(424, content, {"x-amzn-ErrorType": "ModelError", "Content-Type": "application/json"})

    def _stream(self, answer: httpx.Response) -> None:
        """The answer as an event stream whose events end anywhere, as SageMaker's do."""
        self.send_response(200)
        self.send_header("Content-Type", event_stream.CONTENT_TYPE)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in event_stream.events(answer.iter_bytes(), self.stand_in.cut):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")
