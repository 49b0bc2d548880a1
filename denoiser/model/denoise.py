"""The denoiser: embeddings of known or estimated noise level in, cleaner embeddings out.

Rows without noise come back unchanged. One object serves any number of threads; nothing in it changes after creation.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from denoiser.errors import CheckpointError
from denoiser.model import Mode, checkpoint
from denoiser.model.adaptation import SMALLEST_STORE, Adaptation, Moments
from denoiser.model.autoencoder import Autoencoder
from denoiser.model.encoder import Embeddings
from denoiser.model.inputs import as_levels, as_vectors, check_level, check_mode, usable
from denoiser.model.memory import comparable, recall
from denoiser.model.network import Network
from denoiser.model.noise import Level, Levels, estimate_levels, levels_of
from denoiser.model.nonlocal_means import NonLocalMeans
from denoiser.model.training import FEWEST as FEWEST_TRAINED_ON
from denoiser.model.training import Recipe, fine_tuning, train

# Blend.nearer where something is known of the text: its clean vectors, or its noisy ones. Chosen on development text:
# at 0.5 a job's model finds as many neighbours in text like its own, and fewer of noisy queries in other text (-.006).
NEARER = 0.25
_ROWS = 2048


@dataclass(frozen=True)
class Blend:
    """How far mode `neighbours` goes from the noisy vector, for each kind of text by noise level; linear between the
    levels given.

    `nearer` is how much more of the estimate is added, for text of which something is known; `told` is what part of
    the noise level the network is told.
    """

    levels: tuple[float, ...]
    shares: tuple[tuple[float, ...], ...]
    nearer: float = 0.0
    told: float = 1.0

    @classmethod
    def of(cls, manifest: dict[str, Any]) -> "Blend":
        """What a manifest says; older ones have the same shares for all text."""
        kept = manifest["blend"]
        shares = tuple(map(tuple, np.atleast_2d(kept["shares"]).tolist()))
        return cls(tuple(kept["levels"]), shares, kept.get("nearer", 0.0), kept.get("told", 1.0))

    def at(self, levels: Levels) -> Levels:
        """The shares [n, kinds] for noise levels [n]."""
        return np.stack([np.interp(levels, self.levels, of_kind) for of_kind in self.shares], axis=1)


def text_seed(manifest: dict[str, Any]) -> int:
    """The seed that parted the text of packages into what a network learnt and what it is measured on."""
    return int(manifest.get("text_seed", manifest.get("recipe", {}).get("seed", 0)))


def going_on(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the manifest of a network has from that of the one it goes on from: the text to measure both on, and the
    blend, with more trust in what is trained on the text that it is for.
    """
    kept: dict[str, Any] = {name: manifest[name] for name in ("encoder", "per_source", "left_out") if name in manifest}
    blend = {**manifest["blend"], "nearer": NEARER}
    return {**kept, "text_seed": text_seed(manifest), "start": manifest.get("sha256"), "blend": blend}


class Denoiser:
    """A trained network with its blend, on one device; perhaps adapted to a store."""

    def __init__(
        self,
        network: Network,
        blend: Blend,
        device: str = "cpu",
        adaptation: Adaptation | None = None,
        manifest: dict[str, Any] | None = None,
    ) -> None:
        self.network, self.blend = network, blend
        self.device, self.adaptation = device, adaptation
        self.width: int = network.shape["width"]
        self.manifest: dict[str, Any] = manifest or {"blend": asdict(blend)}

    @classmethod
    def from_checkpoint(cls, network: Network, manifest: dict[str, Any], device: str = "cpu") -> "Denoiser":
        """The denoiser that `denoiser.model.checkpoint.load` read."""
        return cls(network, Blend.of(manifest), device, manifest=manifest)

    @classmethod
    def load(cls, path: Path | str, device: str = "cpu") -> "Denoiser":
        """The denoiser of a checkpoint folder or an old .pt file. Raises CheckpointError."""
        return cls.from_checkpoint(*checkpoint.load(Path(path), device), device)

    @classmethod
    def train(cls, embeddings: Embeddings, recipe: Recipe | None = None) -> "Denoiser":
        """A denoiser trained on clean embeddings [n, 384], n >= 64, going on from the bundled checkpoint.

        Raises InvalidInputError.
        """
        return cls.load(checkpoint.BUNDLED_CHECKPOINT).trained(embeddings, recipe)

    def trainable(self) -> "Denoiser":
        """This one; the bundled one in the place of an autoencoder, which cannot be trained further."""
        autoencoder = isinstance(self.network, Autoencoder)
        return Denoiser.load(checkpoint.BUNDLED_CHECKPOINT, self.device) if autoencoder else self

    def trained(
        self,
        embeddings: Embeddings,
        recipe: Recipe | None = None,
        progress: Callable[[int, float], None] = lambda *_: None,
    ) -> "Denoiser":
        """A denoiser trained on clean embeddings [n, width], n >= 64, going on from this one if it is `trainable`.

        `progress` is told the steps done and the loss, as in `denoiser.model.training.train`. Raises InvalidInputError.
        """
        vectors, start = usable(as_vectors(embeddings, self.width, FEWEST_TRAINED_ON)), self.trainable()
        clean = np.ascontiguousarray(vectors, dtype=np.float32)
        recipe = recipe or fine_tuning(start.network, len(clean))
        network = train(clean, recipe, progress, start.network).to(self.device)
        made = {"recipe": asdict(recipe), "training_sentences": len(clean), "sources": []}
        return Denoiser.from_checkpoint(network, {**going_on(start.manifest), **made}, self.device)

    def save(self, path: Path | str) -> None:
        """Write a checkpoint folder, whole or not at all, that `load`, MODEL_PATH and the command line take.

        Raises CheckpointError for an autoencoder of a .pt file, for one adapted to a store, and for a path where
        something else than a checkpoint is or nothing can be written.
        """
        if isinstance(self.network, Autoencoder):
            raise CheckpointError(
                f"an autoencoder cannot be written to {path} as a checkpoint folder; copy its .pt file, or save what "
                "`trained` gives"
            )
        if self.adaptation:
            raise CheckpointError(
                f"what was learnt of a store cannot be written to {path}; save the denoiser that `adapted` was called "
                "on, and adapt it again when it is loaded"
            )
        checkpoint.save(Path(path), self.network, self.manifest)

    def denoise(
        self,
        embeddings: Embeddings,
        levels: Levels | None = None,
        mode: Mode = "neighbours",
        *,
        together: bool = True,
    ) -> Embeddings:
        """Clean estimates [n, width] of embeddings [n, width] that carry noise of `levels` [n] (None: estimated).

        `reconstruct` gives the network's estimate, for the smallest squared error. `neighbours` gives unit vectors
        made of the noisy vector and the estimate, which keep what the network does not know: for unfamiliar text the
        estimate alone finds fewer neighbours than the noisy vector. A vector that the network knows comes back as it
        was, as far as it is recognised; in `neighbours` about as like other text as a vector that it does not know.

        From 200 rows of about one noise level on, those given `together` are a store that this one adapts to, unless
        it is adapted to another; see `adapted_to`. Otherwise a row's result depends on no other row, but for what they
        tell of the noise level. Raises InvalidInputError; the numbers in embeddings are not checked.
        """
        check_mode(mode)
        embeddings = as_vectors(embeddings, self.width)
        levels = estimate_levels(embeddings) if levels is None else as_levels(levels, len(embeddings))
        noisy, level = self._tensors(embeddings, levels)
        with torch.inference_mode():
            estimate = self.network(noisy, level if mode == "reconstruct" else self.blend.told * level)
            adaptation = self.adaptation
            if together and not adaptation and len(noisy) >= SMALLEST_STORE:
                adaptation = Moments.of(self.width, [(noisy, estimate, level)]).adaptation(self.network)
            if adaptation:
                estimate = estimate + adaptation.correction(noisy, level)
            found = estimate
            if mode == "neighbours":
                found = self._blended(noisy, estimate, level, adaptation)
                found = adaptation.smoothed(found, level) if adaptation else found
            result = self._recalled(found, noisy, level, mode) if len(self.network.known) else found
            return np.asarray(torch.where(level > 0, result, noisy).cpu().numpy(), dtype=np.float32)

    def adapted(self, embeddings: Embeddings, noise_level: Level = "auto") -> "Denoiser":
        """This denoiser adapted to a store of noisy embeddings [n, width] of one noise level; see `adapted_to`.

        Raises InvalidInputError.
        """
        vectors = as_vectors(embeddings, self.width)
        starts = range(0, len(vectors), _ROWS)
        return self.adapted_to((usable(vectors[i : i + _ROWS], i) for i in starts), noise_level)

    def adapted_to(self, chunks: Iterable[Embeddings], noise_level: Level = "auto") -> "Denoiser":
        """This denoiser adapted to a store's noisy embeddings in chunks [n, width], each read once and not kept.

        It corrects what the network is seen to err on the store, and trusts it more then; and for search it moves what
        it denoises towards the most like it of a sample of the store. Its `adaptation` is None, and nothing differs,
        where fewer than 200 different embeddings carry noise of about the level of the first that do. Raises
        InvalidInputError for the noise level; the chunks are not checked.
        """
        check_level(noise_level)

        def estimated(chunk: Embeddings) -> tuple[Tensor, Tensor, Tensor]:
            noisy, level = self._tensors(chunk, levels_of(chunk, noise_level))
            return noisy, self.network(noisy, level), level

        with torch.inference_mode():
            moments = Moments.of(self.width, map(estimated, chunks))
            adaptation = moments.adaptation(self.network)
            if adaptation:
                noisy, level = self._tensors(moments.sample.numpy(), np.full(len(moments.sample), adaptation.level))
                estimate = self.network(noisy, self.blend.told * level) + adaptation.correction(noisy, level)
                means = NonLocalMeans.of(self._blended(noisy, estimate, level, adaptation))
                adaptation = replace(adaptation, means=means)
        return Denoiser(self.network, self.blend, self.device, adaptation, self.manifest)

    def _tensors(self, embeddings: Embeddings, levels: Levels) -> tuple[Tensor, Tensor]:
        noisy = torch.from_numpy(np.ascontiguousarray(embeddings, dtype=np.float32)).to(self.device)
        return noisy, torch.from_numpy(levels.astype(np.float32))[:, None].to(self.device)

    def _recalled(self, found: Tensor, noisy: Tensor, level: Tensor, mode: Mode) -> Tensor:
        """What was found, or what is known instead, as far as that is likely."""
        likely, known = recall(self.network, noisy, level)
        if mode == "reconstruct":
            return torch.lerp(found, known, likely)
        known = comparable(self.network, known, noisy, level, found)
        return functional.normalize(torch.lerp(found, known, likely))

    def _blended(self, noisy: Tensor, estimate: Tensor, level: Tensor, adaptation: Adaptation | None) -> Tensor:
        """Unit vectors for search."""
        shares = torch.from_numpy(self.blend.at(level[:, 0].double().cpu().numpy()).astype(np.float32)).to(self.device)
        nearer = max(self.blend.nearer, NEARER * adaptation.reliance) if adaptation else self.blend.nearer
        return self.network.blend(noisy, estimate, level, shares, nearer)
