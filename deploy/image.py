"""The custom image: built by Docker's BuildKit, pushed to ECR through the Docker SDK.

Its tag is a checksum of what goes into it, so an image that is in the repository needs neither build nor push.
"""

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from deploy.aws import Aws
from deploy.errors import ConfigError, DeployError
from deploy.names import Names
from deploy.progress import counting, say
from deploy.settings import Image

SILENCE_SECONDS = 600  # that Docker may say nothing on a slow link or a busy machine
PLATFORM = "linux/amd64"  # of SageMaker's instances, whatever this machine is
# SageMaker takes no index of manifests, which buildx makes of an image with attestations. As a variable, for BuildKit
# without buildx does not know its option.
BUILDKIT = {"DOCKER_BUILDKIT": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
NO_DOCKER = "cannot reach Docker ({}); start it, or set DOCKER_HOST"


def address(names: Names) -> str:
    """The image's address in the registry, tag included."""
    image = names.settings.image
    return names.image(image.tag or source_checksum(image))


def source_checksum(image: Image) -> str:
    """Sixteen hexadecimal digits over every file Docker would read, the arguments of the build and the Dockerfile."""
    from docker.utils.build import exclude_paths  # noqa: PLC0415 - imports requests

    root = image.context.expanduser()
    if not (root / "Dockerfile").is_file():
        raise ConfigError(f"image.context: no Dockerfile in {root}; name its folder, or the pushed image's image.tag")
    ignore = root / ".dockerignore"
    lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    digest = hashlib.sha256(repr(sorted(image.arguments.items())).encode())
    for name in sorted(exclude_paths(str(root), patterns)):
        path = root / name
        if path.is_file():
            executable = os.access(path, os.X_OK)
            digest.update(f"{name} {executable} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def build(aws: Aws, names: Names, image: str) -> str:
    """Build the image with its address as its name; Docker's own cache makes a second build quick."""
    settings = names.settings.image
    options = ["--tag", image, "--platform", PLATFORM]
    if settings.build_network != "default":
        options += ["--network", settings.build_network]
    for key, value in settings.arguments.items():
        options += ["--build-arg", f"{key}={value}"]
    for key, path in settings.build_secrets.items():
        options += ["--secret", f"id={key},src={path.expanduser()}"]
    command = ["docker", "build", *options, str(settings.context.expanduser())]
    aws.journal.run(command, {**os.environ, **BUILDKIT})
    return image


def is_pushed(aws: Aws, names: Names, image: str) -> bool:
    """Whether the repository has the image of that address."""
    tag = image.rpartition(":")[2]
    found = aws.read("ecr", "DescribeImages", repositoryName=names.repository, imageIds=[{"imageTag": tag}])
    return bool(found and found["imageDetails"])


def push(aws: Aws, names: Names, image: str) -> str:
    """Bring the built image of that address to the repository, which is made if it is missing."""
    if is_pushed(aws, names, image):
        say(f"{image} is pushed already")
        return image
    _ensure_repository(aws, names)
    if not aws.journal.dry_run:
        _push(image, _login(aws))
    aws.journal.note(push=image)
    return image


def _ensure_repository(aws: Aws, names: Names) -> None:
    if aws.read("ecr", "DescribeRepositories", repositoryNames=[names.repository]):
        return
    if names.settings.image.repository:
        raise ConfigError(f"repository {names.repository!r} does not exist; make it, or leave image.repository empty")
    aws.change(
        "ecr",
        "CreateRepository",
        repositoryName=names.repository,
        tags=names.tag_list,
        imageTagMutability="IMMUTABLE",
        imageScanningConfiguration={"scanOnPush": True},
    )


def _login(aws: Aws) -> dict[str, str]:
    data = aws.ask("ecr", "GetAuthorizationToken")
    user, _, password = base64.b64decode(data["authorizationData"][0]["authorizationToken"]).decode().partition(":")
    return {"username": user, "password": password}


def _push(image: str, login: Mapping[str, str]) -> None:
    import docker  # noqa: PLC0415 - imports requests
    from docker.errors import APIError, DockerException, ImageNotFound  # noqa: PLC0415
    from requests import RequestException  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    try:
        client = docker.from_env(timeout=SILENCE_SECONDS)
    except DockerException as error:
        raise DeployError(NO_DOCKER.format(error)) from None
    try:
        size = client.images.get(image).attrs["Size"]
        _follow(client.api.push(image, stream=True, decode=True, auth_config=dict(login)), image, size)
    except ImageNotFound:
        raise ConfigError(f"{image} is not built; run: python -m deploy image build") from None
    except APIError as error:
        raise DeployError(f"Docker refused to push {image}: {error.explanation}") from None
    except (DockerException, RequestException, HTTPError) as error:
        raise DeployError(f"Docker broke off while pushing {image}: {error}; start it, and push again") from None
    finally:
        client.close()


def _follow(events: Iterable[Mapping[str, Any]], image: str, size: int) -> None:
    """Show progress. A failed push raises nothing in Docker's SDK: it is one of the events."""
    say(f"pushing {image} ({size / 1e9:.2f} GB before compression)")
    sent: dict[str, int] = {}
    failure = ""
    with counting("pushing", size) as advance:
        for event in events:
            failure = failure or event.get("error", "")
            current = (event.get("progressDetail") or {}).get("current")
            if current and "id" in event:
                advance(max(0, current - sent.get(event["id"], 0)))
                sent[event["id"]] = max(current, sent.get(event["id"], 0))
    if failure:
        raise DeployError(f"pushing {image} failed: {failure}; run it again to go on")


def owned(aws: Aws, names: Names) -> bool:
    """Whether the repository is there and the project's."""
    found = aws.read("ecr", "DescribeRepositories", repositoryNames=[names.repository])
    if not found:
        return False
    tags = aws.read("ecr", "ListTagsForResource", resourceArn=found["repositories"][0]["repositoryArn"])
    return names.owns(tags["tags"] if tags else [])


def delete(aws: Aws, names: Names) -> None:
    """Delete the repository with all its images."""
    aws.change("ecr", "DeleteRepository", repositoryName=names.repository, force=True)
