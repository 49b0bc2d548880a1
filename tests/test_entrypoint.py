"""The entrypoint alone, with a Python that only says how it was started. The whole image is in tests/container."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).parents[1] / "entrypoint.sh"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder with what the entrypoint finds in an image whose volume has the packages already."""
    script = ENTRYPOINT.read_text().replace("/run/secrets", f"{tmp_path}/secrets")
    (tmp_path / "entrypoint.sh").write_text(script.replace("MODELS=/models", f"MODELS={tmp_path}/models"))
    for folder in ("secrets", "models/packages"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "embedded.txt").touch()
    shutil.copy(tmp_path / "embedded.txt", tmp_path / "models/packages/requirements.txt")
    fake(tmp_path, "env | sort >&2; echo python $*")
    return tmp_path


def fake(image: Path, script: str) -> None:
    (image / "python").write_text(f"#!/bin/sh\n{script}\n")
    (image / "python").chmod(0o755)


def start(image: Path, *command: str, **settings: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["sh", "entrypoint.sh", *command],
        cwd=image,
        env={"PATH": f"{image}:{os.environ['PATH']}", "HF_MODEL_ID": "a/model", "ENCODER_PATH": "encoder"} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(image: Path, *command: str, **settings: str) -> tuple[int, str, str]:
    """Its status, what Python was started with, and what was said or stood in the environment."""
    process = start(image, *command, **settings)
    printed, said = process.communicate(timeout=60)
    return process.returncode, printed, said


@pytest.mark.parametrize(("address", "passed_on"), [("", False), ("http://mirror", True)])
def test_an_empty_address_of_the_hub_is_none(image: Path, address: str, passed_on: bool) -> None:
    assert ("HF_ENDPOINT" in run(image, "serve", HF_ENDPOINT=address)[2]) == passed_on


@pytest.mark.parametrize(("service", "module"), [("", "chatglm2"), ("chat", "chatglm2"), ("denoiser", "denoiser")])
def test_serve_is_the_service_that_is_named(image: Path, service: str, module: str) -> None:
    assert run(image, "serve", SERVICE=service)[1].startswith(f"python -m {module} ")


@pytest.mark.parametrize(
    ("command", "service", "says"),
    [
        (["serve"], "Denoiser", "SERVICE is 'Denoiser'; set it to chat or denoiser\n"),
        (["serve", "--port", "1"], "", "unknown command 'serve --port 1'; there are serve (chat, port 8080)"),
        ([], "", "unknown command ''"),
    ],
)
def test_what_it_does_not_know_is_refused(image: Path, command: list[str], service: str, says: str) -> None:
    status, printed, said = run(image, *command, SERVICE=service)
    assert (status, printed) == (1, "")
    assert said.startswith(says)
    assert said.count("\n") == 1


def test_a_key_file_without_a_key_is_refused(image: Path) -> None:
    (image / "secrets/api_key").write_text("\n")
    status, printed, said = run(image, "serve")
    assert (status, printed) == (1, "")
    assert said.startswith("the secret api_key holds no key")


def test_certificates_of_a_proxy_reach_pip_the_hub_and_s3(image: Path) -> None:
    variables = {f"{name}={image}/secrets/ca" for name in ("PIP_CERT", "SSL_CERT_FILE", "AWS_CA_BUNDLE")}
    (image / "secrets/ca").touch()
    assert not variables & set(run(image, "prepare")[2].splitlines())
    (image / "secrets/ca").write_text("certificates")
    assert variables <= set(run(image, "prepare")[2].splitlines())


def test_a_prepare_that_is_stopped_has_failed(image: Path) -> None:
    """With the status of SIGTERM, which tini turns into 0, services would start without their models."""
    fake(image, "echo started >&2; exec sleep 1")
    process = start(image, "prepare")
    assert process.stderr is not None
    assert process.stderr.readline() == "started\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 1
