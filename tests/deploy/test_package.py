"""model.tar.gz for the stock DJL image."""

import functools
import gzip
import shutil
import tarfile
from pathlib import Path

import pytest

from deploy import package
from tests.deploy.conftest import Account, push_image


def test_the_package_holds_code_only(account: Account, tmp_path: Path) -> None:
    done = account.deploy("package", "--output", str(tmp_path / "out" / "model.tar.gz"), "--json")
    assert done.code == 0, done.err
    assert done.json["weights"].startswith("s3://djl-container-123456789012-us-east-1/djl-container/weights/")
    with tarfile.open(done.json["package"]) as archive:
        names = archive.getnames()
        properties = archive.extractfile("serving.properties")
        assert properties is not None
        assert b"option.entryPoint=model.py" in properties.read()
    assert {"model.py", "requirements.txt", "chatglm2/service.py", "chatglm2/engines/transformers.py"} <= set(names)
    assert not [name for name in names if name.endswith((".pyc", ".safetensors"))]


def test_the_same_source_gives_the_same_bytes(account: Account, tmp_path: Path) -> None:
    for name in ("one.tar.gz", "two.tar.gz"):
        assert account.deploy("package", "--output", str(tmp_path / name)).code == 0
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def test_a_package_that_cannot_be_written_is_said_in_one_line(account: Account, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path, tmp_path / "file" / "model.tar.gz"):
        done = account.deploy("package", "--output", str(output))
        assert done.code == 2
        assert f"deploy: {output} cannot be written: " in done.err


def test_no_package_is_written_where_the_weights_have_no_address_yet(account: Account, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "chatglm"}')
    given = {"weights__model": str(tmp_path), "weights__cache_dir": str(tmp_path / "cache")}
    done = account.deploy("package", "--output", str(tmp_path / "model.tar.gz"), **given)
    assert done.code == 2
    assert "weights convert" in done.err
    assert not (tmp_path / "model.tar.gz").exists()


PACKAGED = {"chat__image": "stock", "chat__packaged": "true", "denoiser__enabled": "false"}


def test_up_brings_the_package_to_where_the_model_looks_for_it(account: Account, tmp_path: Path) -> None:
    account.settings["weights.cache_dir"] = str(tmp_path / "cache")
    dry = account.deploy("up", "--dry-run", **PACKAGED)
    assert not (tmp_path / "cache").exists()
    done = account.deploy("up", **PACKAGED)
    assert done.code == 0, done.err
    request = next(call[2] for call in account.calls if call[1] == "CreateModel")
    bucket, _, key = request["PrimaryContainer"]["ModelDataUrl"].removeprefix("s3://").partition("/")
    assert account.client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"] > 0
    assert key in [entry["parameters"].get("Key") for entry in dry.json]


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the handler's sources, to be edited."""
    copy = shutil.copytree(package.SERVING, tmp_path / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(package, "SERVING", copy)
    return copy


def test_a_handler_edited_during_a_run_changes_no_address_of_it(
    account: Account, serving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object) -> None:
        push_image(account, "v2")
        (serving / "model.py").write_text("# edited while Docker builds")

    monkeypatch.setattr("deploy.journal._run", build)
    packaged = {**PACKAGED, "denoiser__enabled": "true", "image__tag": "v2"}
    done = account.deploy("up", weights__cache_dir=str(tmp_path), **packaged)
    assert done.code == 0, done.err
    requests = [call[2]["PrimaryContainer"] for call in account.calls if call[1] == "CreateModel"]
    bucket, _, key = requests[0]["ModelDataUrl"].removeprefix("s3://").partition("/")
    assert account.client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"] > 0


def test_another_compression_of_the_same_handler_is_not_sent(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"weights__cache_dir": str(tmp_path), **PACKAGED}
    assert account.deploy("weights", "upload", **settings).code == 0
    account.calls.clear()
    monkeypatch.setattr("gzip.compress", functools.partial(gzip.compress, compresslevel=1))
    assert account.deploy("weights", "upload", **settings).code == 0
    assert "PutObject" not in {call[1] for call in account.calls}


def test_a_changed_handler_gets_a_package_and_a_model_of_its_own(
    account: Account, serving: Path, tmp_path: Path
) -> None:
    """What runs keeps the package it started with, until the endpoint is replaced."""
    for what in ("created", "unchanged", "updated"):
        done = account.deploy("up", "--json", weights__cache_dir=str(tmp_path), **PACKAGED)
        assert done.json["djl-container-chat"] == what
        if what == "unchanged":
            (serving / "model.py").write_text("# another handler")
    (serving / "model.py").write_text("# a third, not sent")
    refused = account.deploy("endpoint", "update", "chat", weights__cache_dir=str(tmp_path), **PACKAGED)
    assert refused.code == 2
    assert "model.tar.gz is not there; run: python -m deploy weights upload chat" in refused.err
    made = [call[2]["PrimaryContainer"]["ModelDataUrl"] for call in account.calls if call[1] == "CreateModel"]
    assert len(set(made)) == 2
