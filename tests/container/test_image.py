"""The image: what is in its layers, what a second build costs, and what the checkers say of it."""

import json
import shutil
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

import docker
import pytest

from tests.container import daemon
from tests.container.daemon import IMAGE, REPOSITORY, Build

TOOLS = Path(sys.executable).parent
WEIGHTS = {".safetensors", ".gguf", ".bin", ".pt", ".pth", ".onnx", ".ckpt"}
CODE = "opt/djl-container/"
BUNDLED = f"{CODE}denoiser/checkpoints/default/model.safetensors"
"""The denoiser's own 3 MB; they are a file of the repository, as its code is."""


class _Chunks:
    """An iterator of bytes as a file to read once."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size and (chunk := next(self._chunks, b"")):
            self._rest += chunk
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


@pytest.fixture(scope="module")
def files(client: docker.DockerClient) -> list[tuple[str, int]]:
    """Path and size of every file of every layer, those that a later layer hides included."""
    found = []
    chunks = _Chunks(client.images.get(IMAGE).save(chunk_size=1 << 20))
    with tarfile.open(fileobj=cast(IO[bytes], chunks), mode="r|") as archive:
        for member in archive:
            if member.name.endswith("layer.tar"):
                with tarfile.open(fileobj=archive.extractfile(member), mode="r|") as layer:
                    found += [(file.name.removeprefix("./"), file.size) for file in layer if file.isfile()]
    assert len(found) > 10_000
    return found


def test_a_second_build_after_a_code_change_reuses_every_dependency_layer(
    built: Build, arguments: dict[str, str], figures: list[str], tmp_path: Path
) -> None:
    for name in ("Dockerfile", ".dockerignore", "entrypoint.sh"):
        shutil.copy2(REPOSITORY / name, tmp_path)
    for name in ("requirements", "serving", "denoiser"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    with (tmp_path / "serving/chatglm2/app.py").open("a") as file:
        file.write(f"# {uuid.uuid4()}\n")
    again = daemon.build(tmp_path, arguments)
    figures.append(f"build: {built.seconds:.0f} s the first time, {again.seconds:.1f} s after a change of code")
    assert again.done == ["COPY serving serving"]
    daemon.build(REPOSITORY, arguments)


def test_layers_are_dependencies_and_code_only(client: docker.DockerClient, figures: list[str]) -> None:
    layers = [layer for layer in client.images.get(IMAGE).history() if layer["Size"] > 0]
    figures += [f"{layer['Size'] / 1e6:8.1f} MB  {_instruction(layer['CreatedBy'])[:100]}" for layer in layers]
    big = [_instruction(layer["CreatedBy"]) for layer in layers if layer["Size"] > 100e6]
    system = [name for name in big if "openjdk-17-jre-headless" in name]
    torch = [name for name in big if "/opt/venv" in name]
    assert len(system) == 1
    assert len(torch) == 2, "CUDA, and everything else"
    assert len(big) <= 4, "the base image is the only other layer that may be that big"
    folders = _run(client, "sh", "-c", "du -sm /opt/venv/lib/python3.11/site-packages/* /usr/lib/jvm | sort -rn | head")
    figures += ["of which, in MB:", folders.rstrip()]


def _instruction(created_by: str) -> str:
    return " ".join(created_by.replace("/bin/sh -c ", "").split()) or "base image"


def _run(client: docker.DockerClient, *command: str) -> str:
    return client.containers.run(IMAGE, list(command[1:]), entrypoint=command[0], remove=True).decode()


def test_no_weight_is_in_any_layer(files: list[tuple[str, int]]) -> None:
    weights = [name for name, size in files if PurePosixPath(name).suffix in WEIGHTS and size > 1_000_000]
    assert weights == [BUNDLED]
    other = [(name, size) for name, size in files if name.startswith(("models/", CODE)) and size > 1_000_000]
    assert [name for name, _ in other] == [BUNDLED]


def test_no_secret_and_no_cache_is_in_any_layer(files: list[tuple[str, int]], client: docker.DockerClient) -> None:
    secret = {".env", ".netrc", "pip.conf", ".git-credentials", "credentials", "id_rsa", "id_ed25519", "api_key"}
    folders = ("run/secrets/", "root/.", "tmp/", "var/lib/apt/lists/", "models/", "opt/djl-container/.git")
    suspicious = [
        name
        for name, size in files
        if size > 0 and (PurePosixPath(name).name in secret or name.startswith(folders) or name.endswith(".deb"))
    ]
    assert [name for name in suspicious if not name.startswith(("root/.bashrc", "root/.profile"))] == []
    assert not any(name.startswith(CODE) and name.endswith(".pyc") for name, _ in files)
    history = json.dumps(client.images.get(IMAGE).history())
    assert "PIP_INDEX_URL" not in history


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([TOOLS / "hadolint", REPOSITORY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_structure_is_as_described(image: str) -> None:
    config = Path(__file__).with_name("structure.yaml")
    command = [f"{TOOLS}/container-structure-test", "test", f"--image={image}", f"--config={config}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_sbom_names_what_is_in_the_image(image: str, tmp_path: Path) -> None:
    file = tmp_path / "sbom.json"
    subprocess.run([sys.executable, "-m", "launch.sbom", image, file], check=True)
    components = {part["name"]: part["version"] for part in json.loads(file.read_text())["components"]}
    assert components["torch"].startswith("2.13.0")
    assert components["openjdk-17-jre-headless"].startswith("17")
    assert components["netty-codec-http"].startswith("4.1")
