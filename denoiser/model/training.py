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

from denoiser.model import TRAINING_STEPS
from denoiser.model.encoder import Embeddings, fast_precision
from denoiser.model.network import HIGHEST_LEVEL, LOWEST_LEVEL, Network

FEWEST = 64
_FINE_TUNING_RATE = 3e-4  # a third of the usual rate
# Levels are drawn log-uniform between neighbouring bounds, mostly from the middle, where denoising can help most.
_BOUNDS, _SHARES = (LOWEST_LEVEL, 0.03, 0.2, HIGHEST_LEVEL), (0.15, 0.7, 0.15)
_WARM_UP = 200
_REPORT_EVERY = 50


@dataclass(frozen=True)
class Recipe:
    """What decides a training run besides its data; `average` is the decay of the averaged weights."""

    steps: int = TRAINING_STEPS
    batch: int = 256
    rate: float = 1e-3
    average: float = 0.999
    hidden: int = 1024
    blocks: int = 4
    seed: int = 0


def fine_tuning(start: Network, steps: int) -> Recipe:
    """The recipe for training that goes on from a network."""
    return Recipe(steps, rate=_FINE_TUNING_RATE, hidden=start.shape["hidden"], blocks=start.shape["blocks"])


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _rate(step: int, recipe: Recipe) -> float:
    decay = 0.5 + 0.5 * math.cos(math.pi * step / recipe.steps)
    return recipe.rate * min(1.0, (step + 1) / _WARM_UP) * decay


def _draw_levels(count: int) -> Tensor:
    part = torch.multinomial(torch.tensor(_SHARES), count, replacement=True)
    bounds = torch.tensor(_BOUNDS).log()
    return torch.lerp(bounds[part], bounds[part + 1], torch.rand(count)).exp()[:, None]


def _loss(network: Network, clean: Tensor, precision: contextlib.AbstractContextManager[object]) -> Tensor:
    """Squared error over the Wiener filter's expected error, averaged over a batch at random noise levels.

    Noise is the same in every direction, so all of it happens in coordinates along the principal axes.
    """
    level = _draw_levels(len(clean))
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
