"""A checkpoint is a folder of two files: model.safetensors (fp16) and manifest.json, which carries its SHA-256.

It is written whole or not at all, over nothing but an earlier one, and never loaded when the two do not belong
together. Files of PyTorch's own format are read by `legacy`.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from denoiser.errors import CheckpointError
from denoiser.model import legacy

if TYPE_CHECKING:
    from torch import Tensor

    from denoiser.model.network import Network

BUNDLED_CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "default"
WEIGHTS, MANIFEST = "model.safetensors", "manifest.json"
_UNFINISHED = re.compile(r"\..+\.(new|old)\.\w+")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint folder (or its model.safetensors), its weights checked; of a .pt file a short one.

    Loads no tensor, so it is quick. Raises CheckpointError when a file is missing, damaged or of another kind.
    """
    if _is_legacy(path):
        return legacy.describe(path)
    folder = _folder(path)
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        expected = manifest["sha256"]
        network = manifest["network"]
        network["width"], network["hidden"], network["blocks"]
        _check_blend(manifest["blend"])
    except OSError as error:
        raise CheckpointError(
            f"no checkpoint at {folder}: {error.filename} cannot be read ({error.strerror})"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / MANIFEST} is not a manifest of this service ({error!r})") from error
    if digest != expected:
        raise CheckpointError(f"{folder / WEIGHTS} does not match the SHA-256 in its manifest; fetch or train it again")
    return manifest


def _check_blend(blend: dict[str, Any]) -> None:
    """Raises KeyError, TypeError or ValueError when it is none."""
    levels, shares = np.asarray(blend["levels"]), np.asarray(blend["shares"])
    numbers = (levels, shares, np.asarray([blend.get("nearer", 0.0), blend.get("told", 1.0)]))
    if not all(some.size and some.dtype.kind in "if" and np.isfinite(some).all() for some in numbers):
        raise ValueError("its blend has something that is no finite number")
    if levels.ndim != 1 or (np.diff(levels) <= 0).any() or shares.ndim > 2 or shares.shape[-1:] != levels.shape:
        raise ValueError("its blend has no share for each of rising levels")


def _is_legacy(path: Path) -> bool:
    return path.suffix in legacy.SUFFIXES and not path.is_dir()


def _folder(path: Path) -> Path:
    return path.parent if path.name == WEIGHTS and not path.is_dir() else path


def check_target(folder: Path) -> Path:
    """Where `save` writes, with no link in it. Raises CheckpointError when it would replace anything but an earlier
    checkpoint or an empty folder, or cannot write there.
    """
    try:
        target = folder.resolve()
        if target.exists():
            _check_replaceable(target, folder)
        parent = next(parent for parent in target.parents if parent.exists())
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.new.", dir=parent):
            return target
    except OSError as error:
        raise _unwritable(folder, error) from error


def _check_replaceable(target: Path, folder: Path) -> None:
    if not target.is_dir():
        raise CheckpointError(f"{folder} is a file; name another place for the checkpoint folder")
    if target == Path.cwd() or target.is_mount():
        raise CheckpointError(f"{folder} is the current folder or a mount point; name a folder in it, to be made")
    if {path.name for path in target.iterdir()} not in (set(), {WEIGHTS, MANIFEST}):
        raise CheckpointError(f"{folder} is a folder of other files than a checkpoint's; name another folder")


def _unwritable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"cannot write {folder}: {error.strerror}; make room or name another folder")


def save(folder: Path, network: "Network", manifest: dict[str, Any]) -> dict[str, Any]:
    """Write a checkpoint folder atomically, replacing an earlier one; returns the manifest with its SHA-256.

    Raises CheckpointError as `check_target` does.
    """
    from safetensors.torch import save as serialise  # noqa: PLC0415

    weights = serialise({name: tensor.half().contiguous() for name, tensor in network.state_dict().items()})
    manifest = {**manifest, "network": network.shape, "sha256": hashlib.sha256(weights).hexdigest()}
    target = check_target(folder)
    try:
        _write(target, {WEIGHTS: weights, MANIFEST: f"{json.dumps(manifest, indent=2, ensure_ascii=False)}\n".encode()})
    except OSError as error:
        raise _unwritable(folder, error) from error
    return manifest


def _write(folder: Path, files: dict[str, bytes]) -> None:
    incoming, retired = (folder.with_name(f".{folder.name}.{end}.{os.getpid()}") for end in ("new", "old"))
    shutil.rmtree(incoming, ignore_errors=True)
    try:
        incoming.mkdir(parents=True)
        for name, content in files.items():
            (incoming / name).write_bytes(content)
        if folder.exists():
            folder.rename(retired)
        incoming.rename(folder)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    shutil.rmtree(retired, ignore_errors=True)


def is_unfinished(path: Path) -> bool:
    """Whether this is what `save` leaves behind when its process is killed."""
    return path.is_dir() and _UNFINISHED.fullmatch(path.name) is not None


def _as_now(weights: dict[str, "Tensor"], network: "Network") -> dict[str, "Tensor"]:
    """Older weights as they are now: they know no text, one kind of it, or more of other languages than their mean."""
    weights = {"known": network.known, "foreign": network.foreign, **weights}
    if "foreign.mean" in weights:
        weights["foreign"] = weights.pop("foreign.mean")[None]
        del weights["foreign.axes"], weights["foreign.variances"]
    return {**weights, **{name: weights[name].view_as(getattr(network, name)) for name in ("foreign", "ranking")}}


def load(path: Path, device: str = "cpu") -> tuple["Network", dict[str, Any]]:
    """The network of a checkpoint, in fp32 and ready to use, and its manifest. Raises CheckpointError."""
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    from denoiser.model.network import Network  # noqa: PLC0415

    manifest = read_manifest(path)
    if _is_legacy(path):
        return legacy.load(path).to(device), manifest
    folder = _folder(path)
    try:
        # Older ones know one kind of text besides English prose; some have true for one mean.
        sizes = {name: int(size) for name, size in {"foreign_kinds": 1, **manifest["network"]}.items()}
        network = Network(**sizes)
        network.load_state_dict(_as_now(load_file(folder / WEIGHTS), network))
        if len(np.atleast_2d(manifest["blend"]["shares"])) not in {1, len(network.ranking)}:
            raise ValueError(f"its blend has not one or {len(network.ranking)} kinds of text")
    except (SafetensorError, RuntimeError, TypeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{folder / WEIGHTS} does not hold the network its manifest describes: {reason}"
        ) from error
    return network.float().eval().requires_grad_(requires_grad=False).to(device), manifest
