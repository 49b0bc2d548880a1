"""The weight files of an original checkpoint: which there are, and the tensors of one at a time.

Tensors are mapped from the file, never copied as a whole, and nothing that a file contains is executed.
"""

import json
import pickle
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from chatglm2.checkpoint.errors import CheckpointError

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")
LFS_POINTER = b"version https://git-lfs"


def list_shards(folder: Path) -> tuple[list[Path], set[str] | None]:
    """The weight files in order and, where an index says so, the keys they hold together.

    Raises CheckpointError for a broken index and for files that are missing.
    """
    index = next((folder / name for name in INDEXES if (folder / name).is_file()), None)
    if index is None:
        single = next((folder / name for name in SINGLES if (folder / name).is_file()), None)
        if single is None:
            raise CheckpointError(f"{folder}: no weights found (looked for {', '.join(INDEXES + SINGLES)}); add them")
        return [single], None
    weight_map = _weight_map(index)
    files = [folder / name for name in sorted(set(weight_map.values()))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(files)} shards missing: {', '.join(missing)}; add them"
        )
    return files, set(weight_map)


def read_shard(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one file, mapped. Raises CheckpointError when it is damaged or holds anything but tensors."""
    refuse_lfs_pointer(path)
    try:
        return load_file(path) if path.suffix == ".safetensors" else _read_torch(path)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds objects other than tensors, which were not loaded; get the file from a source you trust"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: damaged or cut off ({path.stat().st_size} bytes; {reason}); download it again"
        ) from error


def refuse_lfs_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise CheckpointError(f"{path}: is a Git LFS pointer instead of the file itself; run `git lfs pull`")


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(path) as archive:  # mapping skips the checksums that are in the file
        if broken := archive.testzip():
            raise zipfile.BadZipFile(f"checksum of {broken} is wrong")
    tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path}: holds no plain table of tensors; use the checkpoint's own weight files")
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        plain = all(isinstance(name, str) and Path(name).name == name for name in weight_map.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: has no readable weight_map ({error}); download it again") from error
    if not weight_map or not plain:
        raise CheckpointError(f"{index}: weight_map names no files of this folder; download it again")
    return dict(weight_map)
