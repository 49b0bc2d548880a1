"""How a network errs on one store, learnt from the store's noisy vectors alone.

With clean vectors x, noisy ones y = x + noise of level s and estimates f: E[(x - f) y'] = E[(y - f) y'] - s^2 I. So the
part of the error that is linear in y can be seen without any x. Every sum is over rows, so a store may be larger than
memory. What few rows say is shrunk: noise in the sums is as if it were s^2 d / n added to every variance, times a
factor chosen on development text. What is left of the error is less in the means of rows that are alike.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from denoiser.model.network import Network
from denoiser.model.nonlocal_means import SAMPLE, SMALLEST_STORE, NonLocalMeans

_CAUTION = 28.0
_SAME_LEVEL = 0.2


@dataclass(frozen=True)
class Adaptation:
    """Corrections of estimates [n, width] for one store of `rows` noisy vectors, at its noise level.

    `mean` [width] is of the noisy vectors; `matrix` [width, width] turns what a noisy vector has beyond it into what
    its estimate lacks, as far as that makes the squared error smallest, and `shift` [width] is what all estimates lack.
    `means` are of the rows that are found with these corrections.
    """

    mean: Tensor
    matrix: Tensor
    shift: Tensor
    level: float
    rows: int
    means: NonLocalMeans | None = None

    def correction(self, noisy: Tensor, level: Tensor) -> Tensor:
        """What to add to estimates: [n, width] for noisy vectors [n, width] of noise levels [n, 1]."""
        return self._same_level(level) * ((noisy - self.mean) @ self.matrix + self.shift)

    def smoothed(self, found: Tensor, level: Tensor) -> Tensor:
        """Unit vectors found for search [n, width], moved towards those like them: [n, width] for levels [n, 1]."""
        return self.means.smoothed(found, self._same_level(level) * level) if self.means else found

    def _same_level(self, level: Tensor) -> Tensor:
        return ((level - self.level).abs() <= _SAME_LEVEL * self.level).to(level.dtype)


class _Sums:
    """Moments of noisy vectors and of what the network takes away from them, and a random sample of them."""

    def __init__(self, width: int) -> None:
        self.rows, self.square_of_level = 0, 0.0
        self.noisy, self.taken = (torch.zeros(width, dtype=torch.float64) for _ in range(2))
        self.square, self.product = (torch.zeros(width, width, dtype=torch.float64) for _ in range(2))
        self.square_of_taken = 0.0
        self._random, self._drawn = np.random.default_rng(0), np.empty(0)
        self.sample = torch.empty(0, width)

    def add(self, noisy: Tensor, estimate: Tensor, level: Tensor) -> None:
        self._draw(noisy.cpu())
        noisy, taken = noisy.double().cpu(), (noisy - estimate).double().cpu()
        self.rows += len(noisy)
        self.square_of_level += float((level.double() ** 2).sum())
        self.noisy += noisy.sum(0)
        self.taken += taken.sum(0)
        self.square += noisy.T @ noisy
        self.product += noisy.T @ taken
        self.square_of_taken += float((taken**2).sum())

    def _draw(self, noisy: Tensor) -> None:
        """Each row draws a number; the sample is of those with the smallest."""
        drawn = np.concatenate([self._drawn, self._random.random(len(noisy))])
        kept = drawn.argsort(kind="stable")[:SAMPLE]
        self._drawn, self.sample = drawn[kept], torch.cat([self.sample, noisy])[kept]

    def adaptation(self, device: torch.device) -> Adaptation:
        noisy, taken, level2 = self.noisy / self.rows, self.taken / self.rows, self.square_of_level / self.rows
        identity = torch.eye(len(noisy), dtype=torch.float64)
        covariance = self.square / self.rows - torch.outer(noisy, noisy)
        error = self.product / self.rows - torch.outer(noisy, taken) - level2 * identity
        caution = _CAUTION * level2 * len(noisy) / self.rows
        inverse = torch.linalg.inv(covariance + caution * identity)
        matrix = inverse @ error
        spread = (self.square_of_taken / self.rows - float(taken @ taken)) / self.rows
        by_chance = spread * float(torch.trace(covariance @ inverse))
        found, change = float((error * matrix).sum()), float((matrix * (covariance @ matrix)).sum())
        trust = min(1.0, max(0.0, (found - by_chance) / max(change, 1e-12)))
        certain = max(0.0, 1 - spread / max(float(taken @ taken), 1e-12))
        return Adaptation(
            mean=noisy.float().to(device),
            matrix=(trust * matrix).float().to(device),
            shift=(certain * taken).float().to(device),
            level=level2**0.5,
            rows=self.rows,
        )


def learn(network: Network, chunks: Iterable[tuple[Tensor, Tensor]]) -> tuple[Adaptation, Tensor] | None:
    """From chunks of a store's noisy vectors [n, width] and their noise levels [n, 1]; None from fewer than 200.

    Besides the adaptation, which has no means yet, a random sample of the noisy vectors [m, width], m <= 8,192.
    Vectors without noise are left aside: they say nothing about errors.
    """
    sums = _Sums(network.shape["width"])
    with torch.inference_mode():
        for noisy, level in chunks:
            some = level[:, 0] > 0
            if some.any():
                sums.add(noisy[some], network(noisy[some], level[some]), level[some])
        return (sums.adaptation(network.mean.device), sums.sample) if sums.rows >= SMALLEST_STORE else None
