"""Non-local means: denoised rows of a store are moved towards the rows most like them.

The rows of a store that are about one thing have noise of their own each, so their mean has less of it (Buades, Coll
and Morel, 2005, of patches of an image). A random sample of a large store stands for it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from denoiser.model.network import between_levels

SAMPLE = 8_192
"""The most rows of a store that stand for it."""
# Chosen on fourteen sets of development text, whole and in parts of 1,000 and 250 rows. At noise 0.1 and strength .2,
# overlap with both noisy grew by 9, 6 and 5%; with 100 rows, or a sharpness of 12, it was one or two parts less.
_NEAREST = 30
_SHARPNESS = 20.0
_ITSELF = 0.99  # cosine; a row and its copies have no part in its mean
# How much of its mean is added to a row, at the noise levels of RANKING_LEVELS. The mean is shorter the less its rows
# agree, as in a store of few. At noise 0.1 with strengths .1, .2 and .3, overlap of noisy queries changed by .0035,
# .004 and .003 in whole sets, and by .002, .002 and .000 in parts of 250 rows.
_STRENGTHS = (0.0, 0.0, 0.06, 0.2, 0.2, 0.1, 0.0)
_APART = 0.01  # from the centre; of rows that are nearer, such as copies of one, rounding would decide the direction
_ROWS = 1024  # at once: they are compared with the whole sample


@dataclass(frozen=True)
class NonLocalMeans:
    """`centre` [width] is the mean of a store's denoised rows, and `directions` [m, width] are unit vectors from there
    to those of the sample.
    """

    centre: Tensor
    directions: Tensor

    @classmethod
    def of(cls, store: Tensor) -> "NonLocalMeans":
        """From the denoised unit vectors [n, width] of a store, or of a sample of it."""
        generator = torch.Generator().manual_seed(0)
        sample = store[torch.randperm(len(store), generator=generator)[:SAMPLE].to(store.device)]
        centre = sample.mean(0)
        return cls(centre, _directions(sample, centre))

    def smoothed(self, found: Tensor, level: Tensor) -> Tensor:
        """Denoised unit vectors [n, width] of noise levels [n, 1], nearer to the store's rows most like them."""
        strength = between_levels(torch.tensor(_STRENGTHS, device=found.device), level)[:, None]
        if not strength.any():
            return found
        means = torch.cat([self._means(rows) for rows in torch.split(found, _ROWS)])
        return functional.normalize(found + strength * means)

    def _means(self, found: Tensor) -> Tensor:
        """Means [n, width] of the directions of the rows most like those found [n, width]."""
        similarity = _directions(found, self.centre) @ self.directions.T
        nearest, rows = similarity.float().topk(min(_NEAREST, len(self.directions)), dim=1)
        others = nearest <= _ITSELF
        weights = (_SHARPNESS * nearest.masked_fill(~others, -1)).softmax(1) * others
        return functional.embedding_bag(rows, self.directions, per_sample_weights=weights, mode="sum")


def _directions(rows: Tensor, centre: Tensor) -> Tensor:
    """Unit vectors [n, width] from a centre [width] to rows [n, width]; shorter to rows hardly apart from it."""
    return functional.normalize(rows - centre, eps=_APART)
