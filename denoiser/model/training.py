"""Fitting the network to clean embeddings: axes from their covariance, blocks by gradient descent on added noise, at
the end also for the order of similarities (see `ordering`).

The same embeddings, recipe, processor and number of threads give the same weights.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from denoiser.model import FINE_TUNING_STEPS, TRAINING_STEPS
from denoiser.model.encoder import Embeddings
from denoiser.model.examples import Examples
from denoiser.model.memory import remember
from denoiser.model.network import Network
from denoiser.model.ordering import Ordering
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
    """What decides a training run besides its data.

    `ordering` is the share of the steps, the last ones, that learn the order of similarities too; `average` is the
    decay of the averaged weights.
    """

    steps: int = TRAINING_STEPS
    ordering: float = 0.0
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


def train(
    embeddings: Embeddings, recipe: Recipe, progress: Callable[[int, float], None], start: Network | None = None
) -> Network:
    """A network trained on clean embeddings [n, width], n >= 64, and averaged over the last steps.

    With `start`, training begins from its axes and weights, rehearses what it can do, and adds the embeddings to those
    it knows; it is left as it was.
    `progress` is told the number of steps done and the loss on the embeddings (1 is the Wiener filter's) every 50
    steps; more often in a short run.
    """
    with _seeded(recipe.seed):
        clean = torch.from_numpy(embeddings)
        if start is None:
            network = Network(embeddings.shape[1], recipe.hidden, recipe.blocks)
            network.fit_axes(clean)
        else:
            network = start
        clean = network.rotate(clean)
        rehearsal = None if start is None else Rehearsal(start)

        def loss(network: Network) -> tuple[Tensor, Tensor]:
            batch = Examples.of(clean, recipe.batch)
            if rehearsal:
                batch = batch.with_more(rehearsal.examples(recipe.batch // _REHEARSED + 1))
            errors = batch.errors(network, batch.estimates(network))
            return errors.mean(), errors[: recipe.batch].detach().mean()

        ordered = int(recipe.steps * recipe.ordering)
        descent = _Descent(recipe, progress)
        network = descent.run(network, recipe.steps - ordered, recipe.rate, loss)
        if ordered:
            ordering = Ordering(network, clean)
            network = descent.run(network, ordered, recipe.rate / 2, ordering.loss, [ordering.sharpness])
    if start is not None:
        remember(network, torch.from_numpy(embeddings))
    return network.eval()


class _Descent:
    """Gradient descent in runs of some steps, each with a rate that rises and falls, and progress through them all."""

    def __init__(self, recipe: Recipe, progress: Callable[[int, float], None]) -> None:
        self._steps, self._average, self._progress = recipe.steps, recipe.average, progress
        self._report_every = max(1, min(_REPORT_EVERY, recipe.steps // _REPORTS))
        self._done = 0

    def run(
        self,
        start: Network,
        steps: int,
        rate: float,
        loss: Callable[[Network], tuple[Tensor, Tensor]],
        more: Sequence[nn.Parameter] = (),
    ) -> Network:
        """A network that has gone on from `start`, averaged; `loss` gives what to minimise and what to tell.

        `more` is what the loss depends on besides the network.
        """
        network = deepcopy(start).train().requires_grad_()
        averaged = deepcopy(network).requires_grad_(requires_grad=False)
        optimiser = torch.optim.AdamW([*network.parameters(), *more], fused=True)
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = rate * _rise_and_fall(step, steps)
            minimised, told = loss(network)
            optimiser.zero_grad()
            torch.autograd.backward(minimised)
            optimiser.step()
            _average(averaged, network, min(self._average, (step + 1) / (step + 10)))
            self._done += 1
            if self._done % self._report_every == 0 or self._done == self._steps:
                self._progress(self._done, told.item())
        return averaged


def _rise_and_fall(step: int, steps: int) -> float:
    warm_up = min(_WARM_UP, steps // 10 + 1)
    return min(1.0, (step + 1) / warm_up) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


@torch.no_grad()
def _average(averaged: Network, network: Network, keep: float) -> None:
    for mean, latest in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(latest, 1 - keep)
