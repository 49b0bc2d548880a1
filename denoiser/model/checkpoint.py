"""A checkpoint is a folder of two files: model.safetensors (fp16) and manifest.json, which carries its SHA-256.

It is written whole or not at all, and never loaded when the two do not belong together. Files of PyTorch's own format
are read by `legacy`.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoiser.errors import CheckpointError
from denoiser.model import legacy

if TYPE_CHECKING:
    from denoiser.model.network import Network

BUNDLED_CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "default"
WEIGHTS, MANIFEST = "model.safetensors", "manifest.json"


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint folder (or its model.safetensors), its weights checked; of a .pt file a short one.

    Loads no tensor, so it is quick. Raises CheckpointError when a file is missing, damaged or of another kind.
    """
    if path.suffix in legacy.SUFFIXES:
        return legacy.describe(path)
    folder = path.parent if path.name == WEIGHTS else path
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        expected = manifest["sha256"]
        network = manifest["network"]
        network["width"], network["hidden"], network["blocks"], manifest["blend"]
    except OSError as error:
        raise CheckpointError(
            f"no checkpoint at {folder}: {error.filename} cannot be read ({error.strerror})"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / MANIFEST} is not a manifest of this service ({error!r})") from error
    if digest != expected:
        raise CheckpointError(f"{folder / WEIGHTS} does not match the SHA-256 in its manifest; fetch or train it again")
    return manifest


def save(folder: Path, network: "Network", manifest: dict[str, Any]) -> dict[str, Any]:
    """Write a checkpoint folder atomically, replacing an earlier one; returns the manifest with its SHA-256."""
    from safetensors.torch import save as serialise  # noqa: PLC0415

    weights = serialise({name: tensor.half().contiguous() for name, tensor in network.state_dict().items()})
    manifest = {**manifest, "network": network.shape, "sha256": hashlib.sha256(weights).hexdigest()}
    incoming, retired = (folder.with_name(f".{folder.name}.{end}.{os.getpid()}") for end in ("new", "old"))
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    (incoming / WEIGHTS).write_bytes(weights)
    (incoming / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    if folder.exists():
        folder.rename(retired)
    incoming.rename(folder)
    shutil.rmtree(retired, ignore_errors=True)
    return manifest


def is_unfinished(path: Path) -> bool:
    """Whether this is what `save` leaves behind when its process is killed."""
    return path.name.startswith(".")


def load(path: Path, device: str = "cpu") -> tuple["Network", dict[str, Any]]:
    """The network of a checkpoint, in fp32 and ready to use, and its manifest. Raises CheckpointError."""
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    from denoiser.model.network import Network  # noqa: PLC0415

    manifest = read_manifest(path)
    if path.suffix in legacy.SUFFIXES:
        return legacy.load(path).to(device), manifest
    folder = path.parent if path.name == WEIGHTS else path
    try:
        network = Network(**manifest["network"])
        network.load_state_dict({"known": network.known, **load_file(folder / WEIGHTS)})  # older ones know none
    except (SafetensorError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{folder / WEIGHTS} does not hold the network its manifest describes: {reason}"
        ) from error
    return network.float().eval().requires_grad_(requires_grad=False).to(device), manifest
