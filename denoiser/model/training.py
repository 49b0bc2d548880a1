"""Fitting the network to clean embeddings: axes from their covariance, blocks by gradient descent on added noise.

The same embeddings, recipe, processor and number of threads give the same weights.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch

from denoiser.model import FINE_TUNING_STEPS, TRAINING_STEPS
from denoiser.model.encoder import Embeddings, fast_precision
from denoiser.model.examples import Examples
from denoiser.model.memory import remember
from denoiser.model.network import Network
from denoiser.model.rehearsal import Rehearsal

FEWEST = 64  # embeddings
# Fine-tuning sees each sentence up to 128 times, half as often where there are 400: little text is soon known by heart,
# and then the network finds less in text that is only like it. Chosen on development text: 256 times found 2% more of
# that at noise 0.1, and 4% less in other text, where noisy queries then found fewer than without denoising.
_EPOCHS, _HALF_OF_THEM_AT = 128, 400
_WARM_UP = 200
# For so many examples of the new text, one more of what the network knows. Without it a network trained on 3,000 essays
# found fewer neighbours of noisy queries in fantasy dialogue than no denoising (-.037 at noise 0.1), and the same as
# with it in other essays.
_REHEARSED = 2
_REPORT_EVERY, _REPORTS = 50, 40  # steps; of a short run as many reports


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


def fine_tuning(start: Network, sentences: int, most: int = FINE_TUNING_STEPS) -> Recipe:
    """The recipe for training that goes on from a network: the more sentences the longer, up to `most` steps."""
    epochs = _EPOCHS * sentences / (sentences + _HALF_OF_THEM_AT)
    steps = min(most, max(1, int(epochs * sentences / Recipe.batch)))
    return Recipe(steps, hidden=start.shape["hidden"], blocks=start.shape["blocks"])


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _rate(step: int, recipe: Recipe) -> float:
    decay = 0.5 + 0.5 * math.cos(math.pi * step / recipe.steps)
    warm_up = min(_WARM_UP, recipe.steps // 10 + 1)
    return recipe.rate * min(1.0, (step + 1) / warm_up) * decay


def train(
    embeddings: Embeddings, recipe: Recipe, progress: Callable[[int, float], None], start: Network | None = None
) -> Network:
    """A network trained on clean embeddings [n, width], n >= 64, and averaged over the last steps.

    With `start`, training begins from its axes and weights, rehearses what it can do, and adds the embeddings to those
    it knows; it is left as it was.
    `progress` is told the number of steps done and the loss on the embeddings (1 is the Wiener filter's) every 50
    steps; more often in a short run.
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
        rehearsal = None if start is None else Rehearsal(start)
        averaged = deepcopy(network).requires_grad_(requires_grad=False)
        optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, fused=True)
        report_every = max(1, min(_REPORT_EVERY, recipe.steps // _REPORTS))
        for step in range(recipe.steps):
            optimiser.param_groups[0]["lr"] = _rate(step, recipe)
            batch = Examples.of(clean, recipe.batch)
            if rehearsal:
                batch = batch.with_more(rehearsal.examples(recipe.batch // _REHEARSED + 1))
            with precision:
                errors = batch.errors(network)
            optimiser.zero_grad()
            torch.autograd.backward(errors.mean())
            optimiser.step()
            _average(averaged, network, min(recipe.average, (step + 1) / (step + 10)))
            if (step + 1) % report_every == 0 or step + 1 == recipe.steps:
                progress(step + 1, errors[: recipe.batch].mean().item())
    if start is not None:
        remember(averaged, torch.from_numpy(embeddings))
    return averaged.eval()


@torch.no_grad()
def _average(averaged: Network, network: Network, keep: float) -> None:
    for mean, latest in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(latest, 1 - keep)
