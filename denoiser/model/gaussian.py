"""Text of one kind as a normal distribution of its clean embeddings."""

import torch
from torch import Tensor, nn


class Gaussian(nn.Module):
    """`mean` [width] of clean embeddings; `axes` has their principal axes as columns, `variances` the variance along
    each.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("axes", torch.eye(width))
        self.register_buffer("variances", torch.ones(width))

    def fit(self, clean: Tensor) -> None:
        """Take all three from clean embeddings [n, width]."""
        self.mean.copy_(clean.mean(0))
        variances, axes = torch.linalg.eigh(torch.cov(clean.double().T))
        self.axes.copy_(axes.flip(1))
        self.variances.copy_(variances.flip(0).clamp_min(1e-7))

    def rotate(self, embeddings: Tensor) -> Tensor:
        """Coordinates of embeddings [n, width] along the principal axes."""
        return (embeddings - self.mean) @ self.axes

    def wiener(self, noisy: Tensor, level: Tensor) -> Tensor:
        """The best linear estimate of clean embeddings [n, width] at noise levels [n, 1]; at 0 they are the same."""
        lost = level**2 / (self.variances + level**2)
        return noisy - (self.rotate(noisy) * lost) @ self.axes.T

    def wiener_error(self, level: Tensor) -> Tensor:
        """Expected squared error of the Wiener filter, summed over the width: [n] for noise levels [n, 1]."""
        return (self.variances * level**2 / (self.variances + level**2)).sum(1)
