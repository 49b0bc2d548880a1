"""The weight files of an original checkpoint: the tensors of one at a time.

Tensors are mapped from the file, never copied as a whole, and nothing that a file contains is executed.
"""

import pickle
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from chatglm2.errors import CheckpointError

LFS_POINTER = b"version https://git-lfs"


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
