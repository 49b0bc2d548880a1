"""Weights that cannot be whole are told from their headers, by name."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from chatglm2.checkpoint.index import INDEXES
from chatglm2.checkpoint.native import check_readable
from chatglm2.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ["model-1.safetensors", "model-2.safetensors"]
    for name in names:
        save_file({name: torch.ones(64)}, tmp_path / name)
    (tmp_path / INDEXES[0]).write_text(json.dumps({"weight_map": {name: name for name in names}}))
    return tmp_path


def test_whole_weights_pass(folder: Path) -> None:
    check_readable(folder)
    (folder / INDEXES[0]).unlink()
    (folder / "model-1.safetensors").rename(folder / "model.safetensors")
    check_readable(folder)


def test_cut_file_is_named(folder: Path) -> None:
    file = folder / "model-2.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors cannot be read"):
        check_readable(folder)


def test_missing_file_of_the_index_is_named(folder: Path) -> None:
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 2 shards missing: model-1\.safetensors"):
        check_readable(folder)


def test_damaged_index_is_named(folder: Path) -> None:
    (folder / INDEXES[0]).write_text("{")
    with pytest.raises(CheckpointError, match=r"index\.json: has no readable weight_map"):
        check_readable(folder)
