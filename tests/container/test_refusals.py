"""What cannot work says why in one line and ends with a status that is not 0."""

import json
import shutil
from pathlib import Path

import docker
import pytest

from tests.container.compose import Project
from tests.container.containers import Ended, ended, mount
from tests.container.daemon import CA, IMAGE


def one_line(end: Ended) -> str:
    assert end.status != 0
    assert len(end.log) == 1, end.log
    return end.log[0]


def test_no_gpu_where_one_is_asked_for(client: docker.DockerClient, models: Path) -> None:
    end = ended(client, "serve", environment={"CHAT_DEVICE": "cuda"}, **mount(models, "/opt/ml/model"))
    assert "CHAT_DEVICE=cuda, but no NVIDIA driver is here" in one_line(end)


def test_compose_on_a_host_without_gpu(client: docker.DockerClient) -> None:
    """Docker itself refuses it, before the image gets a say."""
    project = Project(client, IMAGE, 0, 0, 0)
    try:
        done = project.run("up", "--no-build", "--no-deps", "chat", profile=None)
    finally:
        project.run("down", "--volumes", profile=None)
    assert done.returncode != 0
    assert 'could not select device driver "nvidia"' in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", ["serve", "denoiser"])
def test_no_volume_and_no_network(client: docker.DockerClient, command: str) -> None:
    line = one_line(ended(client, command, network_mode="none"))
    assert "/opt/ml/model" in line
    assert "prepare" in line


def test_unknown_command(client: docker.DockerClient) -> None:
    assert "there are serve (chat, port 8080), denoiser" in one_line(ended(client, "bash"))


def test_damaged_chat_model(client: docker.DockerClient, models: Path) -> None:
    damaged = damage(models, models.with_name("damaged-chat"), "model.safetensors")
    line = one_line(ended(client, "serve", **mount(damaged, "/opt/ml/model")))
    assert "/opt/ml/model/model.safetensors cannot be read" in line


def test_damaged_encoder(client: docker.DockerClient, models: Path) -> None:
    damaged = damage(models, models.with_name("damaged-encoder"), "encoder/model.safetensors")
    end = ended(client, "denoiser", **mount(damaged, "/opt/ml/model"))
    assert end.status == 1
    assert "the encoder in /opt/ml/model/encoder cannot be loaded" in end.log[-1]


def damage(models: Path, folder: Path, name: str) -> Path:
    """`models` as a full disk or a broken copy leaves it: one file is cut short."""
    shutil.copytree(models, folder)
    file = folder / name
    file.write_bytes(file.read_bytes()[:100_000])
    return folder


@pytest.mark.parametrize(
    ("size", "says"),
    [("32m", "could not be fetched into /models"), ("340m", "cannot be made in /models")],
    ids=["while fetching", "while converting"],
)
def test_full_volume(client: docker.DockerClient, size: str, says: str) -> None:
    options = {"tmpfs": {"/models": f"size={size},uid=10001,mode=755"}}
    bundle = mount(CA, "/run/secrets/ca") if CA.is_file() else {}
    end = ended(client, "prepare", **options, **bundle)
    assert end.status == 1
    assert says in end.log[-1]
    assert "No space left on device" in end.log[-1]


def test_volume_that_cannot_be_written(client: docker.DockerClient) -> None:
    end = ended(client, "prepare", tmpfs={"/models": "mode=555"})
    assert "user 10001 cannot write to /models" in one_line(end)


def test_key_that_cannot_be_read(client: docker.DockerClient, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret")
    key.chmod(0o400)
    assert "the secret api_key cannot be read" in one_line(ended(client, "serve", **mount(key, "/run/secrets/api_key")))


def test_gpu_is_reserved_by_default_and_for_chat_alone(client: docker.DockerClient) -> None:
    done = Project(client, IMAGE, 1, 2, 3).run("config", "--format", "json", profile=None)
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert {name: "deploy" in service for name, service in services.items()} == {
        "chat": True,
        "denoiser": False,
        "models": False,
    }
    assert services["chat"]["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    ]
    assert all(service["image"] == IMAGE for service in services.values())


def test_another_model_is_not_asked_for_a_commit_of_chatglm2(client: docker.DockerClient) -> None:
    done = Project(client, IMAGE, 1, 2, 3).run("config", "--format", "json", profile=None, HF_MODEL_ID="org/name")
    environment = json.loads(done.stdout)["services"]["models"]["environment"]
    assert environment["HF_MODEL_ID"] == "org/name"
    assert not environment.get("HF_REVISION")
