"""Non-local means: denoised rows of a store are moved towards the rows most like them.

The rows of a store that are about one thing have noise of their own each, so their mean has less of it (Buades, Coll
and Morel, 2005, of patches of an image). A random sample of the store stands for it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from denoiser.model.network import between_levels

SAMPLE = 8_192
"""The most rows of a store that stand for it."""
# Chosen on nine sets of development text. At noise 0.1 overlap with both noisy grew by 10% with 30 rows weighed like
# this, by 9% with all weighed alike, and by 7% with ten.
_NEAREST = 30
_SHARPNESS = 20.0
_ITSELF = 0.99  # cosine; a row has no part in its own mean
# How far rows are moved, at the noise levels of RANKING_LEVELS. At noise 0.1 with .06, .12 and .2, overlap of noisy
# queries changed by .002, .001 and -.006, in noisy stores by .006, .011 and .012, and with both noisy by 6, 10 and 11%.
_STRENGTHS = (0.0, 0.02, 0.06, 0.12, 0.12, 0.05, 0.0)
_ROWS = 1024  # at once: they are compared with the whole sample


@dataclass(frozen=True)
class NonLocalMeans:
    """`centre` [width] is the mean of a store's denoised rows, `directions` [m, width] are unit vectors from there to
    those of the sample, and `part` is the share of the store that is in it.
    """

    centre: Tensor
    directions: Tensor
    part: float

    @classmethod
    def of(cls, sample: Tensor, rows: int) -> "NonLocalMeans":
        """From a sample [m, width] of the denoised unit vectors of a store of so many rows."""
        centre = sample.mean(0)
        return cls(centre, functional.normalize(sample - centre), len(sample) / rows)

    def smoothed(self, found: Tensor, level: Tensor) -> Tensor:
        """Denoised unit vectors [n, width] of noise levels [n, 1], nearer to the store's rows most like them."""
        strength = between_levels(torch.tensor(_STRENGTHS, device=found.device), level)[:, None] * self.part**0.5
        means = torch.cat([self._means(rows) for rows in torch.split(found, _ROWS)])
        return functional.normalize(found + strength * means)

    def _means(self, found: Tensor) -> Tensor:
        """Directions [n, width] from the centre to the means of the rows most like those found [n, width]."""
        similarity = functional.normalize(found - self.centre) @ self.directions.T
        nearest, rows = similarity.float().topk(min(_NEAREST, len(self.directions)), dim=1)
        weights = (_SHARPNESS * nearest.masked_fill(nearest > _ITSELF, -1)).softmax(1)
        summed = functional.embedding_bag(rows, self.directions, per_sample_weights=weights, mode="sum")
        return functional.normalize(summed)
