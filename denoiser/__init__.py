"""Repair noisy sentence embeddings: `from denoiser import Denoiser`, then `train`, `denoise`, `save` and `load`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from denoiser.model.denoise import Denoiser

__all__ = ["Denoiser"]


def __getattr__(name: str) -> Any:
    if name == "Denoiser":  # imported when asked for, because it brings PyTorch along
        from denoiser.model.denoise import Denoiser  # noqa: PLC0415

        return Denoiser
    raise AttributeError(f"module 'denoiser' has no attribute {name!r}")
