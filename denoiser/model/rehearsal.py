"""What a network knows, kept while it is trained on other text: it rehearses on vectors that it imagines itself.

Without that, training on one text takes away what the network could do for others (generative replay, Shin et al.
2017, with the network that training started from as the teacher). Nothing of the text it learnt from is needed.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from denoiser.model.examples import Examples, estimate
from denoiser.model.network import HIGHEST_LEVEL, LOWEST_LEVEL, Network

_IMAGINED = 2048
_STEPS = 16
_FOREIGN = 0.25  # of what is imagined, no English prose


class Rehearsal:
    """Examples for which the estimates of `teacher` are right."""

    def __init__(self, teacher: Network) -> None:
        self._teacher = teacher
        self._known = imagine(teacher, _IMAGINED)

    @torch.no_grad()
    def examples(self, count: int) -> Examples:
        """So many, drawn at random."""
        drawn = Examples.of(self._known, count)
        return replace(drawn, target=drawn.estimates(self._teacher))


@torch.no_grad()
def imagine(network: Network, count: int) -> Tensor:
    """Vectors like those the network was trained on: coordinates [count, width] along its axes.

    From nothing but noise, down to none along the deterministic path of a diffusion model (Song et al. 2021), each step
    of which goes towards the network's estimate.
    """
    levels = torch.linspace(math.log(HIGHEST_LEVEL), math.log(LOWEST_LEVEL), _STEPS).exp().tolist()
    vectors = torch.randn(count, network.shape["width"]) * (network.variances + levels[0] ** 2).sqrt()
    means = network.foreign.flatten(0, 1)
    if len(means):
        some = torch.randint(len(means), (round(_FOREIGN * count),))
        vectors[: len(some)] += means[some]
    for level, following in zip(levels, [*levels[1:], 0.0], strict=True):
        cleaner = estimate(network, vectors, torch.full((count, 1), level))
        vectors = cleaner + following / level * (vectors - cleaner)
    return network.rotate(functional.normalize(network.mean + vectors @ network.axes.T))
