"""The denoiser: embeddings of known or estimated noise level in, cleaner embeddings out.

Rows without noise come back unchanged. One object serves any number of threads; nothing in it changes after creation.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from denoiser import checkpoint
from denoiser.encoder import Embeddings
from denoiser.network import Network
from denoiser.noise import Levels, add_noise, estimate_levels
from denoiser.schemas import Mode
from denoiser.settings import BUNDLED_CHECKPOINT
from denoiser.training import FINE_TUNING_RATE, Recipe, train


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
        self.manifest: dict[str, Any] = {"blend": asdict(blend)}

    @classmethod
    def from_checkpoint(cls, network: Network, manifest: dict[str, Any], device: str = "cpu") -> "Denoiser":
        """The denoiser that `denoiser.checkpoint.load` read."""
        blend = Blend(tuple(manifest["blend"]["levels"]), tuple(manifest["blend"]["shares"]))
        denoiser = cls(network, blend, device)
        denoiser.manifest = manifest
        return denoiser

    @classmethod
    def load(cls, path: Path | str, device: str = "cpu") -> "Denoiser":
        """The denoiser of a checkpoint folder or an old .pt file. Raises CheckpointError."""
        return cls.from_checkpoint(*checkpoint.load(Path(path), device), device)

    @classmethod
    def train(cls, embeddings: Embeddings, recipe: Recipe | None = None) -> "Denoiser":
        """A denoiser trained on clean embeddings [n, 384], n >= 64, going on from the bundled checkpoint."""
        start, manifest = checkpoint.load(BUNDLED_CHECKPOINT)
        recipe = recipe or Recipe(
            steps=1500, rate=FINE_TUNING_RATE, hidden=start.shape["hidden"], blocks=start.shape["blocks"]
        )
        network = train(np.ascontiguousarray(embeddings, dtype=np.float32), recipe, lambda *_: None, start)
        denoiser = cls.from_checkpoint(network, manifest)
        denoiser.manifest = {**manifest, "recipe": asdict(recipe), "training_sentences": len(embeddings), "sources": []}
        return denoiser

    def save(self, path: Path | str) -> None:
        """Write a checkpoint folder, whole or not at all, that `load`, MODEL_PATH and the command line take."""
        checkpoint.save(Path(path), self.network, self.manifest)

    def denoise(self, embeddings: Embeddings, levels: Levels | None = None, mode: Mode = "neighbours") -> Embeddings:
        """Clean estimates [n, width] of embeddings [n, width] that carry noise of `levels` [n] (None: estimated).

        `reconstruct` gives the network's estimate, for the smallest squared error. `neighbours` gives unit vectors
        made of the noisy vector and the estimate, which keep what the network does not know: for unfamiliar text the
        estimate alone finds fewer neighbours than the noisy vector.
        """
        levels = estimate_levels(embeddings) if levels is None else levels
        noisy = torch.from_numpy(np.ascontiguousarray(embeddings, dtype=np.float32)).to(self.device)
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
