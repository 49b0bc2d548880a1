"""Autoencoders saved by PyTorch (.pt): a state dict of Linear layers, with ReLU between them.

Read without running anything in the file (`weights_only`); whatever else it holds is refused in one line. The order of
the layers is that of their names' numbers, encoder before decoder.
"""

import hashlib
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoiser.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from denoiser.model.autoencoder import Autoencoder

SUFFIXES = (".pt", ".pth", ".bin")
WIDTH = 384
LARGEST = 512 * 1024 * 1024
# The share of an autoencoder of unknown training in mode neighbours: small, for it may know the text badly.
_BLEND = {"levels": [0.0], "shares": [0.25]}
_WRAPPERS = ("model_state_dict", "state_dict", "model")
_ORDER = ("encoder", "bottleneck", "decoder")


def describe(path: Path) -> dict[str, Any]:
    """A manifest for a .pt file; loads nothing. Raises CheckpointError when it cannot be read or is too large."""
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise CheckpointError(f"{path} has {size} bytes; at most {LARGEST} are read")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f"no checkpoint at {path}: it cannot be read ({error.strerror})") from error
    return {"sha256": digest, "blend": _BLEND, "format": "autoencoder (.pt)"}


def load(path: Path) -> "Autoencoder":
    """The autoencoder of a .pt file, ready to use. Raises CheckpointError."""
    from denoiser.model.autoencoder import Autoencoder  # noqa: PLC0415

    layers = _layers(_state(path), path)
    widths = [layers[0][0].shape[1], *(weight.shape[0] for weight, _ in layers)]
    fitting = all(a[0].shape[0] == b[0].shape[1] for a, b in pairwise(layers))
    if not fitting or widths[0] != WIDTH or widths[-1] != WIDTH:
        raise CheckpointError(f"{path} has layers of {widths} numbers; they must go from {WIDTH} to {WIDTH}")
    return Autoencoder(layers).eval().requires_grad_(requires_grad=False)


def _state(path: Path) -> dict[str, "Tensor"]:
    import torch  # noqa: PLC0415

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises many kinds on files that are not its own
        raise CheckpointError(
            f"{path} is not a PyTorch file of tensors alone ({type(error).__name__}); nothing in it was run: save the "
            "model's state_dict() with torch.save"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(f"{path} holds no state dict; save the model's state_dict() with torch.save")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _rank(name: str) -> tuple[int, list[int], str]:
    part = next((i for i, word in enumerate(_ORDER) if word in name), 1)
    return part, [int(number) for number in re.findall(r"\d+", name)], name


def _layers(state: dict[str, "Tensor"], path: Path) -> list[tuple["Tensor", "Tensor"]]:
    names = sorted({name.rpartition(".")[0] for name in state}, key=_rank)
    for name, tensor in state.items():
        expected = {"weight": 2, "bias": 1}.get(name.rpartition(".")[2])
        if tensor.ndim != expected or not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{path}: {name} {list(tensor.shape)} is no finite weight or bias of a Linear layer; only stacks of "
                "Linear layers with ReLU are read"
            )
    missing = [f"{n}.{kind}" for n in names for kind in ("weight", "bias") if f"{n}.{kind}" not in state]
    if missing or not names:
        raise CheckpointError(f"{path} lacks {missing[0] if missing else 'any layer'}; only Linear layers are read")
    layers = [(state[f"{name}.weight"].float(), state[f"{name}.bias"].float()) for name in names]
    if any(len(bias) != len(weight) for weight, bias in layers):
        raise CheckpointError(f"{path}: a bias does not fit its weight; only Linear layers are read")
    return layers
