"""The denoiser: embeddings of known or estimated noise level in, cleaner embeddings out.

Rows without noise come back unchanged. One object serves any number of threads; nothing in it changes after creation.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from denoiser.encoder import Embeddings
from denoiser.network import Network
from denoiser.noise import Levels, add_noise, estimate_levels
from denoiser.schemas import Mode


@dataclass(frozen=True)
class Blend:
    """How far mode `neighbours` goes from the noisy vector, by noise level; linear between the levels given."""

    levels: tuple[float, ...]
    shares: tuple[float, ...]

    def at(self, levels: Levels) -> Levels:
        """The shares for noise levels [n]."""
        return np.interp(levels, self.levels, self.shares)


class Denoiser:
    """A trained network with its blend, on one device."""

    def __init__(self, network: Network, blend: Blend, device: str = "cpu") -> None:
        self.network, self.blend = network, blend
        self.device = device
        self.width: int = network.shape["width"]

    @classmethod
    def from_checkpoint(cls, network: Network, manifest: dict[str, Any], device: str = "cpu") -> "Denoiser":
        """The denoiser that `denoiser.checkpoint.load` read."""
        blend = Blend(tuple(manifest["blend"]["levels"]), tuple(manifest["blend"]["shares"]))
        return cls(network, blend, device)

    def denoise(self, embeddings: Embeddings, levels: Levels, mode: Mode = "neighbours") -> Embeddings:
        """Clean estimates [n, width] of embeddings [n, width] that carry noise of `levels` [n].

        `reconstruct` gives the network's estimate, for the smallest squared error. `neighbours` gives unit vectors
        made of the noisy vector and the estimate, which keep what the network does not know: for unfamiliar text the
        estimate alone finds fewer neighbours than the noisy vector.
        """
        noisy = torch.from_numpy(np.ascontiguousarray(embeddings)).to(self.device)
        level = torch.from_numpy(levels.astype(np.float32))[:, None].to(self.device)
        with torch.inference_mode():
            result = self.network(noisy, level)
            if mode == "neighbours":
                share = torch.from_numpy(self.blend.at(levels).astype(np.float32))[:, None].to(self.device)
                result = self.network.blend(noisy, result, level, share)
            return np.asarray(torch.where(level > 0, result, noisy).cpu().numpy(), dtype=np.float32)

    def repair(
        self,
        embeddings: Embeddings,
        noise_level: float = 0.0,
        input_noise_level: float | Literal["auto"] = "auto",
        mode: Mode = "neighbours",
        seed: int | None = None,
    ) -> Embeddings:
        """Add noise of `noise_level`, then denoise [n, width], knowing both it and the noise that was there before."""
        before = (
            estimate_levels(embeddings) if input_noise_level == "auto" else np.full(len(embeddings), input_noise_level)
        )
        noisy = add_noise(embeddings, noise_level, seed)
        return self.denoise(noisy, np.hypot(before, noise_level), mode)
