"""Fitting the network to clean embeddings: axes from their covariance, blocks by gradient descent on added noise.

The same embeddings, recipe, processor and number of threads give the same weights.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from denoiser.model.encoder import Embeddings, fast_precision
from denoiser.model.network import HIGHEST_LEVEL, LOWEST_LEVEL, Network

FEWEST = 64
FINE_TUNING_RATE = 3e-4  # where training goes on from a network, a third of the usual rate
_WARM_UP = 200
_REPORT_EVERY = 50


@dataclass(frozen=True)
class Recipe:
    """What decides a training run besides its data; `average` is the decay of the averaged weights."""

    steps: int = 5000
    batch: int = 512
    rate: float = 1e-3
    average: float = 0.999
    hidden: int = 1024
    blocks: int = 2
    seed: int = 0


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _rate(step: int, recipe: Recipe) -> float:
    decay = 0.5 + 0.5 * math.cos(math.pi * step / recipe.steps)
    return recipe.rate * min(1.0, (step + 1) / _WARM_UP) * decay


def _loss(network: Network, clean: Tensor, precision: contextlib.AbstractContextManager[object]) -> Tensor:
    """Squared error over the Wiener filter's expected error, averaged over a batch at random noise levels.

    Noise is the same in every direction, so all of it happens in coordinates along the principal axes.
    """
    low, high = math.log(LOWEST_LEVEL), math.log(HIGHEST_LEVEL)
    level = torch.empty(len(clean), 1).uniform_(low, high).exp()
    noisy = clean + level * torch.randn_like(clean)
    with precision:
        estimate = noisy + network.correction(noisy, level)
    return (((estimate - clean) ** 2).sum(1) / network.wiener_error(level)).mean()


def train(
    embeddings: Embeddings, recipe: Recipe, progress: Callable[[int, float], None], start: Network | None = None
) -> Network:
    """A network trained on clean embeddings [n, width], n >= 64, and averaged over the last steps.

    With `start`, training begins from its axes and weights; it is left as it was. `progress` is told the number of
    steps done and the loss (1 is the Wiener filter's) every 50 steps.
    """
    precision = fast_precision()
    with _seeded(recipe.seed):
        clean = torch.from_numpy(embeddings)
        if start is None:
            network = Network(embeddings.shape[1], recipe.hidden, recipe.blocks)
            network.fit_axes(clean)
        else:
            network = deepcopy(start).train().requires_grad_()
        clean = network.rotate(clean)
        averaged = deepcopy(network).requires_grad_(requires_grad=False)
        optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, fused=True)
        for step in range(recipe.steps):
            optimiser.param_groups[0]["lr"] = _rate(step, recipe)
            loss = _loss(network, clean[torch.randint(len(clean), (recipe.batch,))], precision)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            _average(averaged, network, min(recipe.average, (step + 1) / (step + 10)))
            if (step + 1) % _REPORT_EVERY == 0 or step + 1 == recipe.steps:
                progress(step + 1, loss.item())
    return averaged.eval()


@torch.no_grad()
def _average(averaged: Network, network: Network, keep: float) -> None:
    for mean, latest in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(latest, 1 - keep)
