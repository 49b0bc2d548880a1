"""Fitting the network to clean embeddings: axes from their covariance, blocks by gradient descent on added noise, at
the end also for the order of similarities (see `ordering`).

The same embeddings, recipe, processor and number of threads give the same weights; on a GPU nearly the same.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from denoiser.model import BLOCKS, FINE_TUNING_STEPS, HIDDEN, TRAINING_BATCH, TRAINING_STEPS
from denoiser.model.descent import Descent, Objective
from denoiser.model.encoder import Embeddings
from denoiser.model.examples import Examples
from denoiser.model.memory import remember
from denoiser.model.network import Network
from denoiser.model.ordering import Ordering
from denoiser.model.rehearsal import Rehearsal
from denoiser.model.seeding import seeded

FEWEST = 64  # embeddings
# Fine-tuning sees each sentence up to 64 times, half as often where there are 400: little text is soon known by heart,
# and then the network finds less in text that is only like it. Chosen on development text: at noise 0.1, 128 times
# found 1 to 4% more of that in twice the time, and 2 to 3% less in other text.
_EPOCHS, _HALF_OF_THEM_AT = 64, 400
# For so many examples of the new text, one more of what the network knows. Without it a network trained on 3,000 essays
# found fewer neighbours of noisy queries in fantasy dialogue than no denoising (-.037 at noise 0.1), and the same as
# with it in other essays.
_REHEARSED = 2
# Of each kind of text that is no English prose. With one mean for all other languages, Greek messages of a game were
# .66 likely to be foreign at noise 0.1, with 32 .98; rows of one store weighed in two ways do not compare, and clean
# queries in a noisy store of the Spanish Bible gained .014 and .049.
_CLUSTERS, _IN_CLUSTER = 64, 64


@dataclass(frozen=True)
class Recipe:
    """What decides a training run besides its data.

    `ordering` is the share of the steps, the last ones, that learn the order of similarities too; `average` is the
    decay of the averaged weights.
    """

    steps: int = TRAINING_STEPS
    ordering: float = 0.0
    batch: int = TRAINING_BATCH
    rate: float = 1e-3
    average: float = 0.999
    hidden: int = HIDDEN
    blocks: int = BLOCKS
    seed: int = 0
    device: str = "cpu"


def fine_tuning(start: Network, sentences: int, most: int = FINE_TUNING_STEPS) -> Recipe:
    """The recipe for training that goes on from a network: the more sentences the longer, up to `most` steps."""
    epochs = _EPOCHS * sentences / (sentences + _HALF_OF_THEM_AT)
    steps = min(most, max(1, int(epochs * sentences / Recipe.batch)))
    return Recipe(steps, hidden=start.shape["hidden"], blocks=start.shape["blocks"])


def train(
    embeddings: Embeddings,
    recipe: Recipe,
    progress: Callable[[int, float], None],
    start: Network | None = None,
    foreign: Sequence[Embeddings] = (),
) -> Network:
    """A network trained on clean embeddings [n, width], n >= 64, and averaged over the last steps.

    `foreign` embeddings [m, width] of other kinds of text than English prose are learnt too; the axes are not theirs.
    With `start`, training begins from its axes and weights, rehearses what it can do, and adds the embeddings to those
    it knows; it is left as it was.
    `progress` is told the number of steps done and the loss on the embeddings (1 is the Wiener filter's) every 50
    steps; more often in a short run.
    """
    with seeded(recipe.seed, recipe.device):
        clean = torch.from_numpy(embeddings).to(recipe.device)
        others = [torch.from_numpy(of_kind).to(recipe.device) for of_kind in foreign]
        if start is None:
            clusters = min((min(_CLUSTERS, -(-len(of_kind) // _IN_CLUSTER)) for of_kind in others), default=0)
            network = Network(
                embeddings.shape[1], recipe.hidden, recipe.blocks, foreign=clusters, foreign_kinds=len(others)
            )
            network.to(recipe.device).fit(clean, others)
        else:
            network = deepcopy(start).to(recipe.device)
        clean = network.rotate(torch.cat([clean, *others]))
        rehearsal = None if start is None else Rehearsal(network)

        def draw() -> Examples:
            batch = Examples.of(clean, recipe.batch)
            return batch.with_more(rehearsal.examples(recipe.batch // _REHEARSED + 1)) if rehearsal else batch

        def loss(network: Network, batch: Examples) -> tuple[Tensor, Tensor]:
            errors = batch.errors(network, batch.estimates(network))
            return errors.mean(), errors[: recipe.batch].detach().mean()

        ordered = int(recipe.steps * recipe.ordering)
        descent = Descent(recipe.steps, recipe.average, progress)
        network = descent.run(network, Objective(draw, loss), recipe.steps - ordered, recipe.rate)
        if ordered:
            network = descent.run(network, Ordering(network, clean).objective(), ordered, recipe.rate / 2)
    network = network.cpu().eval()
    if start is not None:
        remember(network, torch.from_numpy(embeddings))
    return network
