"""What a network is trained on: clean vectors with noise of random levels.

Noise is the same in every direction, so all of it happens in coordinates along the principal axes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from denoiser.model.encoder import fast_precision
from denoiser.model.network import HIGHEST_LEVEL, LOWEST_LEVEL, Network

# Levels are drawn log-uniform between neighbouring bounds, mostly from the middle, where denoising can help most.
_BOUNDS, _SHARES = (LOWEST_LEVEL, 0.03, 0.2, HIGHEST_LEVEL), (0.15, 0.7, 0.15)


@dataclass(frozen=True)
class Examples:
    """Noisy vectors [n, width] of noise levels [n, 1], and what a network should make of them [n, width]."""

    noisy: Tensor
    level: Tensor
    target: Tensor

    @classmethod
    def of(cls, clean: Tensor, count: int) -> "Examples":
        """So many, of clean vectors drawn at random."""
        target = clean[torch.randint(len(clean), (count,), device=clean.device)]
        level = draw_levels(count).to(clean.device, non_blocking=True)
        return cls(target + level * torch.randn_like(target), level, target)

    @property
    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.noisy, self.level, self.target

    def with_more(self, others: "Examples") -> "Examples":
        """These and others."""
        return Examples(*map(torch.cat, zip(self._tensors, others._tensors, strict=True)))

    def copy_(self, others: "Examples") -> None:
        """Become others, of the same shape, in the same memory."""
        for own, given in zip(self._tensors, others._tensors, strict=True):
            own.copy_(given)

    def estimates(self, network: Network) -> Tensor:
        """What the network makes of them [n, width]."""
        return estimate(network, self.noisy, self.level)

    def errors(self, network: Network, estimates: Tensor) -> Tensor:
        """Squared error of each estimate over the Wiener filter's expected error: [n]."""
        return ((estimates - self.target) ** 2).sum(1) / network.wiener_error(self.level)


def estimate(network: Network, noisy: Tensor, level: Tensor) -> Tensor:
    """The network's estimate of clean coordinates [n, width] along its axes, in the fastest precision."""
    with fast_precision(noisy.device.type):
        correction = network.correction(noisy, level)
    return noisy + correction


def draw_levels(count: int) -> Tensor:
    """Noise levels [count, 1]."""
    part = torch.multinomial(torch.tensor(_SHARES), count, replacement=True)
    bounds = torch.tensor(_BOUNDS).log()
    return torch.lerp(bounds[part], bounds[part + 1], torch.rand(count)).exp()[:, None]
