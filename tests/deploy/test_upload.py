"""Weights on their way to S3: parts, checksums, a kill in the middle, a second run."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.aws import FilePart
from deploy.errors import ConfigError
from deploy.upload import checksums
from tests.deploy.conftest import Account, things
from tests.deploy.iam import refused
from tests.deploy.stand_in import Failure, StandIn

MIB = 2**20


SHARDS, SHARD, PART = 7, 22 * MIB, 5 * MIB
"""ChatGLM2-6B has seven shards, 12.5 GB in all; these are an eightieth of it. S3 takes no smaller parts."""
PARTS_OF_SHARD = -(-SHARD // PART)
PARTS = SHARDS * PARTS_OF_SHARD


def sparse(folder: Path, shards: int, size: int) -> Path:
    """A native checkpoint whose shards are holes but for a mark in each part."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "glm"}')
    for number in range(shards):
        with (folder / f"model-{number}.safetensors").open("wb") as file:
            file.truncate(size)
            for start in range(0, size, PART):
                file.seek(start + number)
                file.write(b"%d" % start)
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Two shards of three parts."""
    return sparse(tmp_path / "weights", 2, 11 * MIB)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shape of the real thing."""
    return sparse(tmp_path_factory.mktemp("upload") / "shards", SHARDS, SHARD)


def command(account: Account, weights: Path, **settings: str) -> list[str]:
    """An upload as a process of its own."""
    chosen = {**account.settings, "weights.model": str(weights), **settings}
    flags = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "deploy", "weights", "upload", *flags]


def stored(account: Account) -> dict[str, int]:
    """Names and sizes of the objects."""
    return {key.rpartition("/")[2]: size for key, size in objects(account).items()}


def objects(account: Account) -> dict[str, int]:
    found = account.client("s3").list_objects_v2(Bucket=bucket(account)).get("Contents", [])
    return {item["Key"]: item["Size"] for item in found}


def bucket(account: Account) -> str:
    return things(account)["buckets"][0]


def unfinished(account: Account) -> list[dict[str, str]]:
    """Uploads that are neither complete nor given up."""
    uploads = account.client("s3").list_multipart_uploads(Bucket=bucket(account)).get("Uploads", [])
    return [{"Bucket": bucket(account), "Key": upload["Key"], "UploadId": upload["UploadId"]} for upload in uploads]


def parts(account: Account) -> int:
    """How many parts S3 has, of finished and unfinished objects."""
    s3 = account.client("s3")
    whole = sum(-(-size // PART) for key, size in objects(account).items() if key.endswith(".safetensors"))
    return whole + sum(len(s3.list_parts(**upload).get("Parts", [])) for upload in unfinished(account))


def assert_same(account: Account, weights: Path) -> None:
    """The bucket holds the folder's files, byte for byte."""
    s3, place = account.client("s3"), bucket(account)
    keys = {key.rpartition("/")[2]: key for key in objects(account)}
    assert keys.keys() == {path.name for path in weights.iterdir()}
    for name, key in keys.items():
        body = s3.get_object(Bucket=place, Key=key)["Body"]
        with (weights / name).open("rb") as file:
            assert hashlib.file_digest(body, "sha256").digest() == hashlib.file_digest(file, "sha256").digest()


def test_an_upload_goes_in_parts_goes_on_after_a_kill_and_sends_nothing_twice(account: Account, shards: Path) -> None:
    """Killed with eight parts under way at once: what arrived before is not sent again."""
    arrived = 4 * PARTS_OF_SHARD - 1  # at least one shard has some of its parts and not all
    account.aws.pause_after = arrived
    process = subprocess.Popen(command(account, shards, **{"weights.parallel": "8"}), start_new_session=True)
    try:
        wait_for(account.aws, "UploadPart", arrived + 8)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        account.aws.hold.set()
    account.aws.pause_after = None
    assert parts(account) == arrived
    account.aws.counts.clear()
    done = account.deploy("weights", "upload", weights__model=str(shards))
    assert done.code == 0, done.err
    assert "going on after" in done.err
    assert account.aws.counts["UploadPart"] == PARTS - arrived
    assert "MB" in [line for line in done.err.splitlines() if line.startswith("uploading: ")][-1]
    assert refused(account, account.calls) == []
    assert unfinished(account) == []
    assert_same(account, shards)
    account.aws.counts.clear()
    again = account.deploy("weights", "upload", weights__model=str(shards))
    assert again.code == 0
    assert f"all {SHARDS} files are there" in again.err
    assert not {"PutObject", "UploadPart", "CreateMultipartUpload"} & account.aws.counts.keys()


def test_an_upload_shows_its_progress(account: Account, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines in a log, a bar on a terminal."""
    done = account.deploy("weights", "upload", "--json", weights__model=str(weights))
    assert done.code == 0, done.err
    assert stored(account) == {path.name: path.stat().st_size for path in weights.iterdir()}
    assert account.aws.counts["UploadPart"] == 6
    assert "uploading: 23.1 of 23.1 MB" in done.err
    monkeypatch.setenv("FORCE_COLOR", "1")
    (weights / "config.json").write_text("{}")
    done = account.deploy("weights", "upload", weights__model=str(weights))
    assert done.code == 0, done.err
    assert "23.1/23.1 MB" in done.err
    assert "━" in done.err


def test_ctrl_c_says_what_was_done(account: Account, weights: Path) -> None:
    account.aws.pause_after = 2
    words = command(account, weights, **{"weights.parallel": "1"})
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_for(account.aws, "UploadPart", 3)
        process.send_signal(signal.SIGINT)
        account.aws.pause_after = None
        account.aws.hold.set()
        _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "CreateBucket" in err.splitlines()[-1]
    assert "Traceback" not in err


def wait_for(aws: StandIn, operation: str, count: int) -> None:
    limit = time.monotonic() + 120
    while aws.counts[operation] < count:
        assert time.monotonic() < limit, aws.counts
        time.sleep(0.05)


def test_what_an_earlier_run_left_of_other_content_is_thrown_away(account: Account, weights: Path) -> None:
    settings = {"weights__model": str(weights)}
    uri = account.deploy("weights", "upload", "--json", **settings).json["uri"]
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    s3 = account.client("s3")
    s3.delete_object(Bucket=bucket, Key=f"{key}model-0.safetensors")
    left = s3.create_multipart_upload(Bucket=bucket, Key=f"{key}model-0.safetensors")["UploadId"]
    s3.upload_part(
        Bucket=bucket, Key=f"{key}model-0.safetensors", UploadId=left, PartNumber=1, Body=b"x" * 5 * MIB,
        ChecksumAlgorithm="SHA256",
    )  # fmt: skip
    account.aws.counts.clear()
    assert account.deploy("weights", "upload", **settings).code == 0
    assert account.aws.counts["UploadPart"] == 3
    assert "AbortMultipartUpload" in {call[1] for call in account.calls}
    assert refused(account, account.calls) == []
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads") is None
    body = s3.get_object(Bucket=bucket, Key=f"{key}model-0.safetensors")["Body"].read()
    assert body == (weights / "model-0.safetensors").read_bytes()


@pytest.fixture
def begun(account: Account, weights: Path) -> dict[str, Any]:
    """The request by which the upload of a shard begins; the bucket holds all but that shard."""
    assert account.deploy("weights", "upload", weights__model=str(weights)).code == 0
    request = next(call[2] for call in account.calls if call[1] == "CreateMultipartUpload")
    account.client("s3").delete_object(Bucket=request["Bucket"], Key=request["Key"])
    account.calls.clear()
    return request


def test_an_upload_that_another_run_is_sending_is_gone_on_with(
    account: Account, weights: Path, begun: dict[str, Any]
) -> None:
    """That other run may be the one that completes it."""
    s3, name = account.client("s3"), begun["Key"].rpartition("/")[2]
    sent = {"UploadId": s3.create_multipart_upload(**begun)["UploadId"], "PartNumber": 1}
    body = (weights / name).read_bytes()[:PART]
    s3.upload_part(Bucket=begun["Bucket"], Key=begun["Key"], **sent, Body=body, ChecksumAlgorithm="SHA256")
    account.aws.failures["CompleteMultipartUpload"] = Failure("NoSuchUpload", status=404, late=True)
    done = account.deploy("weights", "upload", weights__model=str(weights))
    assert done.code == 0, done.err
    assert not {"CreateMultipartUpload", "AbortMultipartUpload"} & {call[1] for call in account.calls}
    assert_same(account, weights)


def test_an_upload_without_parts_stays_until_the_object_is_whole(
    account: Account, weights: Path, begun: dict[str, Any]
) -> None:
    """It may be of other content, or another run's; which may end it first."""
    account.client("s3").create_multipart_upload(**begun | {"Metadata": {"sha256": "other"}})
    account.aws.failures["AbortMultipartUpload"] = Failure("NoSuchUpload", status=404, late=True)
    settings = {"weights__model": str(weights)}
    done = account.deploy("weights", "upload", **settings)
    assert done.code == 0, done.err
    steps = [call[1] for call in account.calls]
    assert steps.index("CompleteMultipartUpload") < steps.index("AbortMultipartUpload")
    assert unfinished(account) == []
    assert "all 2 files are there" in account.deploy("weights", "upload", **settings).err


def test_damage_on_the_way_is_noticed(account: Account, weights: Path) -> None:
    account.aws.corrupt = True
    done = account.deploy("weights", "upload", weights__model=str(weights))
    assert done.code == 1
    assert "BadDigest" in done.err
    assert "run the command again" in done.err
    account.aws.corrupt = False
    assert account.deploy("weights", "upload", weights__model=str(weights)).code == 0


def test_changed_files_get_a_prefix_of_their_own(account: Account, weights: Path) -> None:
    """A running endpoint that scales out must never find other weights than it started with."""
    first = account.deploy("weights", "upload", "--json", weights__model=str(weights)).json
    (weights / "config.json").write_text('{"model_type": "glm", "changed": true}')
    assert account.deploy("weights", "upload", "--json", weights__model=str(weights)).json != first


def test_files_behind_links_are_sent(account: Account, encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "linked"
    folder.mkdir()
    for path in encoder.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / ".cache").symlink_to("nowhere")
    done = account.deploy("weights", "upload", "denoiser", denoiser__encoder=str(folder))
    assert done.code == 0, done.err
    sent = {key.partition("/encoder/")[2] for key in objects(account)}
    assert sent == {"modules.json", "config.json", "1_Pooling/config.json"}


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("nowhere"), lambda path: path.symlink_to(path.parent)]
)
def test_a_folder_with_something_that_cannot_be_sent_is_not_sent(
    account: Account, encoder: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """A pipe, a link to nothing, a link to a folder above."""
    folder = Path(shutil.copytree(encoder, tmp_path / "folder"))
    make(folder / "odd")
    for service, setting in (("chat", "weights__model"), ("denoiser", "denoiser__encoder")):
        done = account.deploy("weights", "upload", service, **{setting: str(folder)})
        assert done.code == 2
        assert f"{folder / 'odd'} is " in done.err
    assert "PutObject" not in account.aws.counts


def test_a_file_that_is_gone_by_then_is_said(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for read in (FilePart(gone, 0, 1).read, lambda: checksums({"gone": gone})):
        with pytest.raises(ConfigError, match=f"{gone}: No such file"):
            read()


def test_a_name_that_is_not_utf_8_is_said(account: Account, encoder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(encoder, tmp_path / "folder"))
    (folder / os.fsdecode(b"caf\xe9.json")).write_text("{}")
    done = account.deploy("weights", "upload", "denoiser", denoiser__encoder=str(folder))
    assert done.code == 2
    assert r"caf\udce9.json' is no name in UTF-8" in done.err


def test_down_aborts_unfinished_uploads_in_a_named_bucket(account: Account) -> None:
    """An upload cut off before any object is whole; the team's own uploads stay."""
    s3, account.settings["bucket"] = account.client("s3"), "team"
    s3.create_bucket(Bucket="team")
    theirs = s3.create_multipart_upload(Bucket="team", Key="notes")["UploadId"]
    s3.create_multipart_upload(Bucket="team", Key="djl-container/weights/a/model.safetensors")
    account.aws.failures["AbortMultipartUpload"] = Failure("NoSuchUpload", status=404, late=True)  # as by another run
    done = account.deploy("down", "--yes")
    assert done.code == 0, done.err
    assert "1 unfinished uploads under s3://team/djl-container/" in done.out
    assert [left["UploadId"] for left in unfinished(account)] == [theirs]
    assert refused(account, account.calls) == []
