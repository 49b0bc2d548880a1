"""model.tar.gz for the stock DJL image."""

import tarfile
from pathlib import Path

from tests.deploy.conftest import Account


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


def test_up_brings_the_package_to_where_the_model_looks_for_it(account: Account, tmp_path: Path) -> None:
    settings = {"chat__image": "stock", "chat__packaged": "true", "denoiser__enabled": "false"}
    done = account.deploy("up", weights__cache_dir=str(tmp_path), **settings)
    assert done.code == 0, done.err
    request = next(call[2] for call in account.calls if call[1] == "CreateModel")
    bucket, _, key = request["PrimaryContainer"]["ModelDataUrl"].removeprefix("s3://").partition("/")
    assert account.client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"] > 0
