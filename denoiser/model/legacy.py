"""Autoencoders saved by PyTorch (.pt): a state dict of Linear layers, with ReLU between them.

Read without running anything in the file (`weights_only`); whatever else it holds is refused in one line. The order of
the layers is that of their names' numbers, encoder before decoder; where the names say nothing of it, or it does not go
from 384 numbers to 384, that of the file, which is that of their making.
"""

import hashlib
import re
from collections.abc import Collection
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
_DIGITS = re.compile(r"\d+")


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
    for names in (_by_name(layers), layers):
        ordered = [layers[name] for name in names]
        widths = [WIDTH, *(len(weight) for weight, _ in ordered)]
        if [weight.shape[1] for weight, _ in ordered] == widths[:-1] and widths[-1] == WIDTH:
            return Autoencoder(ordered).eval().requires_grad_(requires_grad=False)
    sizes = ", ".join(f"{name} {weight.shape[1]} to {len(weight)}" for name, (weight, _) in layers.items())
    raise CheckpointError(f"{path} has layers that do not follow each other from {WIDTH} to {WIDTH} numbers: {sizes}")


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
    found = content.items() if isinstance(content, dict) else ()
    tensors = {str(name).removeprefix("module."): value for name, value in found if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no state dict; save the model's state_dict() with torch.save")
    return tensors


def _part(name: str) -> int:
    return next((i for i, word in enumerate(_ORDER) if word in name), 1)


def _by_name(names: Collection[str]) -> list[str]:
    """By part, and by number where only numbers tell a part's names apart; what is equal in this stays in its order."""
    parts = {_part(name) for name in names}
    numbered = len({(_part(name), _DIGITS.sub("", name)) for name in names}) == len(parts)
    return sorted(names, key=lambda name: (_part(name), list(map(int, _DIGITS.findall(name))) if numbered else []))


def _is_usable(tensor: "Tensor", dimensions: int | None) -> bool:
    try:
        usable = (
            not tensor.is_nested and tensor.ndim == dimensions and tensor.is_floating_point() and tensor.numel() > 0
        )
        return usable and bool(tensor.float().isfinite().all())
    except RuntimeError:  # sparse, without content, or of numbers that cannot be converted
        return False


def _layers(state: dict[str, "Tensor"], path: Path) -> dict[str, tuple["Tensor", "Tensor"]]:
    """Weights and biases by name, in the file's order."""
    for name, tensor in state.items():
        if not _is_usable(tensor, {"weight": 2, "bias": 1}.get(name.rpartition(".")[2])):
            raise CheckpointError(
                f"{path}: {name}, of {tensor.ndim} dimensions, is no dense, finite weight or bias of a Linear layer; "
                "only stacks of Linear layers with ReLU are read"
            )
    names = dict.fromkeys(name.rpartition(".")[0] for name in state)
    missing = [f"{n}.{kind}" for n in names for kind in ("weight", "bias") if f"{n}.{kind}" not in state]
    if missing:
        raise CheckpointError(f"{path} lacks {missing[0]}; only Linear layers are read")
    layers = {name: (state[f"{name}.weight"].float(), state[f"{name}.bias"].float()) for name in names}
    if any(len(bias) != len(weight) for weight, bias in layers.values()):
        raise CheckpointError(f"{path}: a bias does not fit its weight; only Linear layers are read")
    return layers
