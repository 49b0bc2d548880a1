"""Whether denoising loses neighbours."""

import numpy as np

from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import Embeddings
from denoiser.model.neighbours import SITUATIONS, TrueNeighbours
from denoiser.model.noise import add_noise


def assert_nothing_lost(denoiser: Denoiser, clean: Embeddings, level: float, draws: int) -> None:
    """In no situation, over draws of noise, beyond one standard error over the queries."""
    gains: dict[str, list[float]] = {situation: [] for situation in SITUATIONS}
    for seed in range(draws):
        noisy = add_noise(clean, level, seed)
        before, after = map(TrueNeighbours(clean).overlaps, (noisy, denoiser.denoise(noisy)))
        for situation in SITUATIONS:
            gains[situation].extend(after[situation] - before[situation])
    for situation in SITUATIONS:
        values = np.array(gains[situation])
        assert values.mean() >= -values.std() / np.sqrt(len(clean)), situation
