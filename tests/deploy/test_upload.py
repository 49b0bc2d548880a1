"""Weights on their way to S3: parts, checksums, a kill in the middle, a second run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.deploy.conftest import Account, things
from tests.deploy.iam import refused
from tests.deploy.stand_in import StandIn

MIB = 2**20


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The shape of 12 GB of shards, five hundred times smaller: sparse but for a mark in each part."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "glm"}')
    for number in range(2):
        with (folder / f"model-{number}.safetensors").open("wb") as file:
            file.truncate(11 * MIB)
            for part in range(3):
                file.seek(part * 5 * MIB + number)
                file.write(b"%d" % part)
    return folder


def stored(account: Account) -> dict[str, int]:
    s3, bucket = account.client("s3"), things(account)["buckets"][0]
    found = s3.list_objects_v2(Bucket=bucket)["Contents"]
    return {item["Key"].rpartition("/")[2]: item["Size"] for item in found}


def test_an_upload_goes_in_parts_and_a_second_run_sends_nothing(account: Account, weights: Path) -> None:
    settings = {"weights__model": str(weights)}
    done = account.deploy("weights", "upload", "--json", **settings)
    assert done.code == 0, done.err
    assert stored(account) == {path.name: path.stat().st_size for path in weights.iterdir()}
    assert account.aws.counts["UploadPart"] == 6
    assert "uploading: 23.1 of 23.1 MB" in done.err
    prefix = done.json["uri"]
    bucket, _, key = prefix.removeprefix("s3://").partition("/")
    body = account.client("s3").get_object(Bucket=bucket, Key=f"{key}model-1.safetensors")["Body"].read()
    assert body == (weights / "model-1.safetensors").read_bytes()
    account.aws.counts.clear()
    again = account.deploy("weights", "upload", "--json", **settings)
    assert again.json == {"uri": prefix}
    assert not {"PutObject", "UploadPart", "CreateMultipartUpload"} & account.aws.counts.keys()


def test_an_upload_goes_on_after_a_kill(account: Account, weights: Path) -> None:
    """Killed while parts are under way: what has arrived is not sent again."""
    settings = {**account.settings, "weights.model": str(weights), "weights.parallel": "1"}
    flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    account.aws.pause_after = 2
    process = subprocess.Popen([sys.executable, "-m", "deploy", "weights", "upload", *flags], start_new_session=True)
    try:
        wait_for(account.aws, "UploadPart", 3)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    account.aws.pause_after = None
    account.aws.hold.set()
    s3, bucket = account.client("s3"), things(account)["buckets"][0]
    left = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
    arrived = sum(
        len(s3.list_parts(Bucket=bucket, Key=u["Key"], UploadId=u["UploadId"]).get("Parts", [])) for u in left
    )
    assert arrived >= 2
    account.aws.counts.clear()
    done = account.deploy("weights", "upload", weights__model=str(weights))
    assert done.code == 0, done.err
    assert "going on after" in done.err
    assert refused(account, account.calls) == []
    assert account.aws.counts["UploadPart"] == 6 - arrived
    assert stored(account) == {path.name: path.stat().st_size for path in weights.iterdir()}
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads") is None


def test_ctrl_c_says_what_was_done(account: Account, weights: Path) -> None:
    settings = {**account.settings, "weights.model": str(weights), "weights.parallel": "1"}
    flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    account.aws.pause_after = 2
    command = [sys.executable, "-m", "deploy", "weights", "upload", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
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
    while aws.counts.get(operation, 0) < count:
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
