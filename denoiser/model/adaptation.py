"""How a network errs on one store, learnt from the store's noisy vectors alone.

With clean vectors x, noisy ones y = x + noise of level s and estimates f: E[(x - f) y'] = E[(y - f) y'] - s^2 I. So the
part of the error that is linear in y can be seen without any x. Every sum is over rows, so a store may be larger than
memory. What few rows say is shrunk: noise in the sums is as if it were s^2 d / n added to every variance, times a
factor chosen on development text.

This holds for noise that is alike along all axes and has nothing in common in any two rows; other noise looks like
error. But along the last axes clean embeddings hardly differ and a network hardly errs. So what is seen there is taken
for the noise's, and where it explains all that is seen elsewhere, nothing is corrected.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from denoiser.model.network import Network
from denoiser.model.nonlocal_means import SAMPLE, NonLocalMeans

SMALLEST_STORE = 200
"""Fewer rows say too little of the text that they are of."""
_CAUTION = 28.0
# How much of what is seen along the last axes is expected along each. With noise 0.1 that differs from number to number
# by a fifth, the worst of thirteen sets of development text lost 12% of *both* with 1, and none with 2 or 3; with noise
# that is alike everywhere 3 gained least in stores of 250 rows.
_ELSEWHERE = 2.0
_SAME_LEVEL = 0.2
_TINY = 1e-12


@dataclass(frozen=True)
class Adaptation:
    """Corrections of estimates [n, width] for one store of `rows` noisy vectors, at its noise level.

    `mean` [width] is of the noisy vectors; `matrix` [width, width] turns what a noisy vector has beyond it into what
    its estimate lacks, as far as that makes the squared error smallest, and `shift` [width] is what all estimates lack.
    `reliance`, from 0 to 1, says how little of that could come from noise which is not as it is taken to be. `means`
    are of the store's rows; without them, of those that are denoised together.
    """

    mean: Tensor
    matrix: Tensor
    shift: Tensor
    level: float
    rows: int
    reliance: float
    means: NonLocalMeans | None = None

    def correction(self, noisy: Tensor, level: Tensor) -> Tensor:
        """What to add to estimates: [n, width] for noisy vectors [n, width] of noise levels [n, 1]."""
        return self._same_level(level) * ((noisy - self.mean) @ self.matrix + self.shift)

    def smoothed(self, found: Tensor, level: Tensor) -> Tensor:
        """Unit vectors found for search [n, width], moved towards those like them: [n, width] for levels [n, 1]."""
        means = self.means or NonLocalMeans.of(found)
        return means.smoothed(found, self._same_level(level) * level)

    def _same_level(self, level: Tensor) -> Tensor:
        return _near(level, self.level).to(level.dtype)


class Moments:
    """Of a store's noisy vectors, and of what the network takes away from them; and a random sample of the vectors.

    The level of the store is the median of the first rows that carry noise. Rows of other levels are left aside, and
    rows that are copies of others added with them: their noise is not their own.
    """

    def __init__(self, width: int) -> None:
        self.rows, self._level, self._square_of_level = 0, 0.0, 0.0
        self._noisy, self._taken = (torch.zeros(width, dtype=torch.float64) for _ in range(2))
        self._square, self._product = (torch.zeros(width, width, dtype=torch.float64) for _ in range(2))
        self._square_of_taken = 0.0
        self._random, self._drawn = np.random.default_rng(0), np.empty(0)
        self.sample = torch.empty(0, width)

    @classmethod
    def of(cls, width: int, chunks: Iterable[tuple[Tensor, Tensor, Tensor]]) -> "Moments":
        """Of chunks of noisy vectors [n, width], estimates [n, width] and noise levels [n, 1]."""
        moments = cls(width)
        for noisy, estimate, level in chunks:
            moments.add(noisy.cpu(), estimate.cpu(), level.cpu())
        return moments

    def add(self, noisy: Tensor, estimate: Tensor, level: Tensor) -> None:
        """Noisy vectors [n, width], estimates of them [n, width] and their noise levels [n, 1], on the CPU."""
        some = level[level > 0]
        self._level = self._level or (float(some.median()) if len(some) else 0.0)
        chosen = _distinct(noisy)
        chosen = chosen[(_near(level, self._level) & (level > 0))[chosen, 0]]
        self._draw(noisy[chosen])
        noisy, taken = noisy[chosen].double(), (noisy - estimate)[chosen].double()
        self.rows += len(noisy)
        self._square_of_level += float((level[chosen].double() ** 2).sum())
        self._noisy += noisy.sum(0)
        self._taken += taken.sum(0)
        self._square += noisy.T @ noisy
        self._product += noisy.T @ taken
        self._square_of_taken += float((taken**2).sum())

    def _draw(self, noisy: Tensor) -> None:
        """Each row draws a number; the sample is of those with the smallest."""
        drawn = np.concatenate([self._drawn, self._random.random(len(noisy))])
        kept = drawn.argsort(kind="stable")[:SAMPLE]
        self._drawn, self.sample = drawn[kept], torch.cat([self.sample, noisy])[kept]

    def adaptation(self, network: Network) -> Adaptation | None:
        """What they say of the network that the estimates are of, without means; None from fewer than 200 rows."""
        if self.rows < SMALLEST_STORE:
            return None
        noisy, taken, level2 = self._noisy / self.rows, self._taken / self.rows, self._square_of_level / self.rows
        identity = torch.eye(len(noisy), dtype=torch.float64)
        covariance = self._square / self.rows - torch.outer(noisy, noisy)
        together = self._product / self.rows - torch.outer(noisy, taken)
        error = together - level2 * identity
        inverse = torch.linalg.inv(covariance + _CAUTION * level2 * len(noisy) / self.rows * identity)
        matrix = inverse @ error
        spread = (self._square_of_taken / self.rows - float(taken @ taken)) / self.rows

        last = network.last_axes.double().cpu()
        of_noise, of_taken = (float(((last.T @ moments) * last.T).sum()) for moments in (covariance, together))
        strange = float(((last.T @ error @ last) ** 2).sum()) - of_noise * of_taken / self.rows
        strange_shift = float(((taken @ last) ** 2).sum()) - of_taken / self.rows

        found = float((error * matrix).sum()) - spread * float(torch.trace(covariance @ inverse))
        explained = _ELSEWHERE * max(0.0, strange) / last.shape[1] * float(torch.trace(inverse))
        trust = (found - explained) / max(float((matrix * (covariance @ matrix)).sum()), _TINY)
        explained_shift = spread + max(0.0, strange_shift) * len(noisy) / last.shape[1]
        certain = 1 - explained_shift / max(float(taken @ taken), _TINY)
        return Adaptation(
            mean=noisy.to(network.mean),
            matrix=(_share(trust) * matrix).to(network.mean),
            shift=(_share(certain) * taken).to(network.mean),
            level=level2**0.5,
            rows=self.rows,
            reliance=_share(1 - explained / max(found, _TINY)),
        )


def _near(level: Tensor, other: float) -> Tensor:
    return (level - other).abs() <= _SAME_LEVEL * other


def _distinct(rows: Tensor) -> Tensor:
    """Indices in order of the rows [n, width] that no earlier one is a copy of."""
    keys = np.ascontiguousarray(rows.numpy()).view(np.dtype((np.void, rows.shape[1] * rows.element_size())))
    return torch.from_numpy(np.sort(np.unique(keys, return_index=True)[1]))


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
