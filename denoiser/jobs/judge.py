"""Is a new model better? Neighbour overlap on held-out embeddings, against doing nothing, Wiener and the active model.

Better means: more neighbours found than by each of them, by more than one standard error of the paired difference.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from denoiser.evaluation.methods import Method, methods_of
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import Embeddings
from denoiser.model.neighbours import SITUATIONS, TrueNeighbours, standard_error
from denoiser.model.noise import add_noise
from denoiser.vectors import closeness

LEVELS = (0.05, 0.1, 0.2)
_SEED = 20_000


@dataclass(frozen=True)
class Verdict:
    """Whether the new model takes over, why in words, and the figures of every method at every level."""

    better: bool
    reason: str
    figures: list[dict[str, Any]]


def _contestants(candidate: Denoiser, active: Denoiser) -> dict[str, Method]:
    own = methods_of(candidate)
    return {
        "identity": own["identity"],
        "Wiener": own["Wiener"],
        "active model": lambda noisy, level: active.denoise(noisy, np.full(len(noisy), level)),
        "new model": own["neighbours"],
    }


def _score(
    name: str, method: Method, clean: Embeddings, true: TrueNeighbours, level: float
) -> tuple[npt.NDArray[np.float64], dict[str, Any]]:
    """Overlap of each query, averaged over situations, and the figures."""
    output = method(add_noise(clean, level, _SEED), level)
    found = true.overlaps(output)
    errors, cosines = closeness(output, clean)
    figures = {
        "method": name,
        "noise_level": level,
        "mse": float(errors.mean()),
        "cosine": float(cosines.mean()),
        "overlap": {s: float(found[s].mean()) for s in SITUATIONS},
    }
    return np.mean([found[s] for s in SITUATIONS], axis=0), figures


def judge(candidate: Denoiser, active: Denoiser, clean: Embeddings) -> Verdict:
    """The verdict on a candidate, from held-out clean embeddings [n, width], n > 10."""
    true = TrueNeighbours(clean)
    scores: dict[str, npt.NDArray[np.float64]] = {}
    figures = []
    for name, method in _contestants(candidate, active).items():
        rows = [_score(name, method, clean, true, level) for level in LEVELS]
        scores[name] = np.mean([score for score, _ in rows], axis=0)
        figures += [row for _, row in rows]
    new = scores.pop("new model")
    losses = []
    for name, other in scores.items():
        gain = new - other
        error = standard_error(gain)
        if gain.mean() <= error:
            losses.append(f"{name} ({other.mean():.3f}; difference {gain.mean():+.3f} ± {error:.3f})")
    reason = f"neighbour overlap {new.mean():.3f} on {len(clean)} held-out sentences, "
    if losses:
        return Verdict(False, f"{reason}not clearly above {' and '.join(losses)}; the active model stays", figures)
    rivals = ", ".join(f"{name} {other.mean():.3f}" for name, other in scores.items())
    return Verdict(True, f"{reason}above {rivals}; the new model takes over", figures)
