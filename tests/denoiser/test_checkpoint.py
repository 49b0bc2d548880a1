"""Checkpoint folders: what is written, read, replaced and refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from denoiser.errors import CheckpointError
from denoiser.model import checkpoint
from denoiser.model.checkpoint import BUNDLED_CHECKPOINT
from denoiser.model.denoise import Denoiser
from denoiser.model.network import Network

MANIFEST = {"blend": {"levels": [0.0], "shares": [0.5]}}


@pytest.fixture(scope="module")
def small() -> Network:
    return Network(384, 16, 1)


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path, small: Network) -> None:
    written = checkpoint.save(tmp_path / "made", small, MANIFEST)
    network, manifest = checkpoint.load(tmp_path / "made" / "model.safetensors")
    assert manifest == written == checkpoint.read_manifest(tmp_path / "made")
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, small.state_dict()[name].half().float())
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def write_weights(folder: Path, written: dict[str, Any], shape: dict[str, Any], weights: dict[str, Tensor]) -> Denoiser:
    """The denoiser of a checkpoint with these weights in the place of those written."""
    serialised = safetensors.torch.save(weights)
    (folder / "model.safetensors").write_bytes(serialised)
    manifest = {**written, "network": shape, "sha256": hashlib.sha256(serialised).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Denoiser.load(folder)


def test_a_checkpoint_of_before_other_languages_were_known_loads(tmp_path: Path, small: Network) -> None:
    written = checkpoint.save(tmp_path / "made", small, MANIFEST)
    weights = safetensors.torch.load_file(tmp_path / "made" / "model.safetensors")
    del weights["foreign"]
    shape = {name: size for name, size in written["network"].items() if not name.startswith("foreign")}
    old = write_weights(tmp_path / "made", written, shape, {**weights, "ranking": weights["ranking"][0]})
    assert old.network.foreign.shape == (1, 0, written["network"]["width"])
    assert torch.equal(old.network.ranking, small.ranking)


def test_a_checkpoint_with_a_gaussian_of_other_languages_loads_its_mean(tmp_path: Path, small: Network) -> None:
    written = checkpoint.save(tmp_path / "made", small, MANIFEST)
    weights = safetensors.torch.load_file(tmp_path / "made" / "model.safetensors")
    del weights["foreign"]
    shape = {name: size for name, size in written["network"].items() if not name.startswith("foreign")}
    width = shape["width"]
    gaussian = {"mean": torch.full((width,), 0.5), "axes": torch.eye(width), "variances": torch.ones(width)}
    weights |= {f"foreign.{name}": tensor for name, tensor in gaussian.items()}
    weights["ranking"] = weights["ranking"].repeat(2, 1, 1, 1)
    old = write_weights(tmp_path / "made", written, {**shape, "foreign": True}, weights)
    assert torch.equal(old.network.foreign, gaussian["mean"][None, None])


def test_saving_again_replaces_the_checkpoint(tmp_path: Path, small: Network) -> None:
    for note in ("first", "second"):
        checkpoint.save(tmp_path / "made", small, {**MANIFEST, "note": note})
    assert checkpoint.read_manifest(tmp_path / "made")["note"] == "second"


@pytest.mark.parametrize("held", ["thesis.txt", "manifest.json"])
def test_saving_replaces_nothing_but_a_checkpoint(
    tmp_path: Path, small: Network, denoiser: Denoiser, held: str
) -> None:
    precious = tmp_path / "precious" / held
    precious.parent.mkdir()
    precious.write_text("years of work")
    for target, complaint in ((precious.parent, "other files than a checkpoint's; name another"), (precious, "a file")):
        with pytest.raises(CheckpointError, match=complaint):
            checkpoint.save(target, small, MANIFEST)
        with pytest.raises(CheckpointError, match=complaint):
            denoiser.save(target)
    assert precious.read_text() == "years of work"
    assert [p.name for p in tmp_path.rglob("*")] == ["precious", held]


def test_saving_fills_an_empty_folder_and_follows_a_link(tmp_path: Path, small: Network) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "latest").symlink_to("empty")
    for name in ("empty", "latest"):
        checkpoint.save(tmp_path / name, small, {**MANIFEST, "note": name})
    assert checkpoint.read_manifest(tmp_path / "empty")["note"] == "latest"
    assert (tmp_path / "latest").is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "latest"]


@pytest.mark.parametrize("place", [".", "..", "/", "/proc/model", "/dev/null/model", "n" * 300])
def test_a_place_where_no_folder_can_be_made_is_refused_in_one_line(small: Network, place: str) -> None:
    with pytest.raises(CheckpointError, match=r"; (name|make)") as refusal:
        checkpoint.save(Path(place), small, MANIFEST)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model.safetensors"])
def test_a_checkpoint_folder_may_have_any_name(tmp_path: Path, small: Network, name: str) -> None:
    written = checkpoint.save(tmp_path / name, small, MANIFEST)
    assert checkpoint.load(tmp_path / name)[1] == written


def test_a_damaged_missing_or_foreign_checkpoint_is_refused(tmp_path: Path, small: Network) -> None:
    folder = tmp_path / "made"
    checkpoint.save(folder, small, MANIFEST)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="SHA-256"):
        checkpoint.load(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a manifest"):
        checkpoint.load(folder)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        checkpoint.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        checkpoint.load(tmp_path / "old.pt")


@pytest.mark.parametrize(
    "blend",
    [
        {},
        None,
        [],
        {"levels": [0.0, 0.1], "shares": [0.1]},
        {"levels": [0.0], "shares": 0.1},
        {"levels": [], "shares": []},
        {"levels": ["0"], "shares": ["1"]},
        {"levels": [0.0], "shares": [float("nan")]},
        {"levels": [0.1, 0.0], "shares": [0.1, 0.2]},
        {"levels": [0.0], "shares": [[0.1], [0.1]]},
        {"levels": [0.0], "shares": [0.1], "told": None},
    ],
)
def test_a_manifest_with_a_blend_that_is_none_is_refused_in_one_line(
    tmp_path: Path, small: Network, blend: object
) -> None:
    checkpoint.save(tmp_path / "made", small, {**MANIFEST, "blend": blend})
    with pytest.raises(CheckpointError, match=r"is not a manifest|its blend has not one or 1 kinds") as refusal:
        Denoiser.load(tmp_path / "made")
    assert "\n" not in str(refusal.value)


def test_the_bundled_checkpoint_says_where_it_comes_from() -> None:
    manifest = checkpoint.read_manifest(BUNDLED_CHECKPOINT)
    assert (BUNDLED_CHECKPOINT / "model.safetensors").stat().st_size < 30_000_000
    assert manifest["training_sentences"] > 50_000
    assert all(source["licence"] and source["version"] for source in manifest["sources"])
    learnt_from = {s["package"] for s in manifest["sources"] if s["use"] in {"training", "other languages"}}
    assert not learnt_from & {s["package"] for s in manifest["sources"] if s["use"].startswith(("development", "test"))}
