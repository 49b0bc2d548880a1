"""`python -m launch.sbom IMAGE FILE`: what is in an image, as CycloneDX JSON.

Asks the image itself, so that it says what is there: Debian's packages, Python's, and the jars of DJL Serving.
"""

import contextlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, cast

import docker
import typer
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from docker.errors import DockerException
from docker.utils import parse_repository_tag
from packageurl import PackageURL

INSIDE = """
import json, subprocess
from importlib.metadata import distributions
from pathlib import Path
packages = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}\\\\n"], capture_output=True, text=True)
print(json.dumps({
    "deb": [line.split() for line in packages.stdout.splitlines()],
    "pypi": [(found.metadata["Name"], found.version) for found in distributions()],
    "jar": [file.stem for file in Path("/opt/djl-serving/lib").glob("*.jar")],
}))
"""


def components(found: dict[str, list[list[str]]], jars: list[str]) -> Iterator[Component]:
    """One for each package, named as its ecosystem names it."""
    for kind, namespace in (("deb", "debian"), ("pypi", None)):
        for name, version in found[kind]:
            yield _component(name, version, PackageURL(kind, namespace, name, version))
    for jar in jars:
        name, version = cast(re.Match[str], re.fullmatch(r"(.+?)-(\d.*)", jar)).groups()
        yield _component(name, version, PackageURL("generic", "djl-serving", name, version))


def _component(name: str, version: str, url: PackageURL) -> Component:
    return Component(type=ComponentType.LIBRARY, name=name, version=version, purl=url, bom_ref=url.to_string())


def container(image: str) -> Component:
    """The image itself, by its name and its tag or digest."""
    name, tag = parse_repository_tag(image)
    return Component(type=ComponentType.CONTAINER, name=name, version=tag)


def main(
    image: Annotated[str, typer.Argument(help="Name of the image.")],
    file: Annotated[Path, typer.Argument(help="JSON file to write.")],
) -> None:
    """Write what is in an image as CycloneDX JSON."""
    try:
        with contextlib.closing(docker.from_env()) as client:
            client.images.get(image)  # or Docker would try to pull it
            output = client.containers.run(image, ["-c", INSIDE], entrypoint="python", remove=True)
    except DockerException as error:
        raise _refused(
            f"{image} cannot be asked ({str(error).splitlines()[0]}); build it, or name another IMAGE"
        ) from None
    found = json.loads(output)
    bom = Bom(components=components(found, found["jar"]))
    bom.metadata.component = container(image)
    bom.register_dependency(bom.metadata.component, bom.components)
    write(file, JsonV1Dot6(bom).output_as_string(indent=1))
    print(f"wrote {file}: {len(bom.components)} components")


def write(file: Path, text: str) -> None:
    """Write it, in a folder that is made if need be. Raises typer.Exit where that cannot be, and says why."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    except OSError as error:
        raise _refused(f"{file} cannot be written ({error.strerror}); name another SBOM") from None


def _refused(text: str) -> typer.Exit:
    print(f"sbom: {text}", file=sys.stderr)
    return typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
