"""Weights before they are sent: fetched from a mirror at a pinned revision, converted by the chat package."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chatglm2.checkpoint import tiny
from tests.deploy.conftest import Account, things
from tests.deploy.iam import Access, allows, refused
from tests.deploy.stand_in import Failure
from tests.hub import COMMIT, FakeHub, fake_hub


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole original checkpoint, as a hub has it; with code, which must stay there."""
    folder = tmp_path_factory.mktemp("hub")
    sentencepiece = folder / "made.model"
    sentencepiece.write_bytes(tiny.train_sentencepiece())
    made = tiny.write_original(folder / "tiny", tiny.original_tensors(tiny.CONFIG), sentencepiece)
    (made / "modeling_chatglm.py").write_text("raise SystemExit")
    return made


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the hub's library, which reads its environment only once."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path


def test_up_from_a_mirror_goes_on_after_each_interruption(account: Account, original: Path, home: Path) -> None:
    """Killed in the download, then stopped after the conversion, then whole with the mirror gone."""
    account.settings |= {
        "weights.model": "org/name",
        "weights.revision": COMMIT,
        "weights.cache_dir": str(home / "converted"),
        "denoiser.enabled": "false",
    }
    with fake_hub(original, COMMIT) as hub:
        account.settings["weights.hub_endpoint"] = hub.url
        planned = account.deploy("weights", "download", "--dry-run")
        assert planned.json == [{"download": {"model": "org/name", "revision": COMMIT, "endpoint": hub.url}}]
        assert hub.requests == []
        kill_when_held(hub, account)
        account.aws.failures["CreateBucket"] = Failure("AccessDenied", "not now", times=9)
        stopped = account.deploy("up")
        assert "CreateBucket: AccessDenied: not now" in stopped.err
        assert "done before that: download, command; the same command goes on from there\n" in stopped.err
        assert not any(name.endswith(".py") for name in hub.fetched())
    account.aws.failures.clear()
    done = account.deploy("up", "--json")
    assert done.code == 0, done.err
    assert "downloaded already" in done.err
    assert "converted already" in done.err
    listed = account.client("s3").list_objects_v2(Bucket=things(account)["buckets"][0])["Contents"]
    prefix = f"djl-container/weights/org--name-{COMMIT[:12]}/"
    assert {item["Key"].rpartition("/")[0] + "/" for item in listed} == {prefix}
    names = {item["Key"].removeprefix(prefix) for item in listed}
    assert {"config.json", "tokenizer.json", "model.safetensors.index.json"} <= names
    assert "conversion.json" not in names


def kill_when_held(hub: FakeHub, account: Account) -> None:
    """`up`, killed when the first half of a shard is there."""
    shard = max(hub.folder.iterdir(), key=lambda path: path.stat().st_size)
    hub.hold_at = {shard.name: shard.stat().st_size // 2}
    flags = [word for key, value in account.settings.items() for word in ("--set", f"{key}={value}")]
    with subprocess.Popen([sys.executable, "-m", "deploy", "up", *flags], start_new_session=True) as process:
        held = hub.held.wait(120)
        os.killpg(process.pid, signal.SIGKILL)
    assert held
    hub.release.set()
    hub.requests.clear()


def test_a_folder_of_original_files_is_converted(account: Account, original: Path, tmp_path: Path) -> None:
    settings = {"weights__model": str(original), "weights__cache_dir": str(tmp_path)}
    early = account.deploy("weights", "upload", **settings)
    assert early.code == 2
    assert "weights convert" in early.err
    planned = account.deploy("weights", "convert", "--dry-run", **settings)
    command = planned.json[0]["command"]
    assert command[1:5] == ["-m", "chatglm2", "convert", str(original)]
    assert not Path(command[5]).exists()
    whole = account.deploy("up", "--dry-run", **settings)
    assert whole.code == 0, whole.err
    model = next(entry["parameters"] for entry in whole.json if entry.get("operation") == "CreateModel")
    uri = model["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]["S3Uri"]
    assert uri == "s3://djl-container-123456789012-us-east-1/djl-container/weights/<content>/"


@pytest.mark.usefixtures("home")
def test_a_step_that_fails_is_not_said_to_be_done(account: Account, original: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "chatglm"}')
    folder = {"weights__model": str(tmp_path), "weights__cache_dir": str(tmp_path / "cache")}
    with fake_hub(original, COMMIT) as hub:
        unknown = {"weights__model": "org/unknown", "weights__hub_endpoint": hub.url}
        failed = [account.deploy("weights", "download", **unknown), account.deploy("weights", "convert", **folder)]
    for step, said in zip(failed, ("could not be downloaded", "ended with status"), strict=True):
        assert step.code == 1
        assert said in step.err
        assert "done before that" not in step.err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weights__model": "/nowhere"}, "no folder at /nowhere"),
        ({"weights__model": "team/tiny", "weights__revision": "main"}, "is no commit"),
        ({"weights__model": "s3://bucket/native"}, "in S3 already"),
    ],
)
def test_a_source_that_cannot_be_used(account: Account, settings: dict[str, str], said: str) -> None:
    done = account.deploy("weights", "download", **settings)
    assert done.code == 2
    assert said in done.err


def test_weights_that_are_in_s3_are_used_as_they_are(account: Account) -> None:
    s3 = account.client("s3")
    s3.create_bucket(Bucket="team")
    s3.put_object(Bucket="team", Key="native/config.json", Body=b"{}")
    account.settings |= {"denoiser.enabled": "false", "weights.model": "s3://team/native"}
    account.calls.clear()
    done = account.deploy("up")
    assert done.code == 0, done.err
    model = next(call[2] for call in account.calls if call[1] == "CreateModel")
    assert model["PrimaryContainer"]["ModelDataSource"]["S3DataSource"]["S3Uri"] == "s3://team/native/"
    assert [call for call in account.calls if call[0] == "s3"] == []
    assert account.deploy("endpoint", "update", "chat").code == 0
    assert refused(account, account.calls) == []
    policy = account.deploy("policy", "endpoint").json
    for key, allowed in (("native/config.json", True), ("other/config.json", False)):
        assert allows(policy, Access("s3:GetObject", f"arn:aws:s3:::team/{key}"), {}) == allowed
    assert allows(policy, Access("s3:ListBucket", "arn:aws:s3:::team", {"s3:prefix": "native/"}), {})
