"""What mode `neighbours` trusts, axis by axis: fitted so that a store's rows keep the order of their similarities.

Fitted on text the network was not trained on, for there alone it shows how far the network can be trusted; half of it
on narrow stores, whose rows are all alike, where it can be trusted least. What is fitted for one kind of text counts as
far as a vector is likely of that kind, in the fitting too: rows that are hard to tell apart must not be weighed so
differently that they no longer compare.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from denoiser.model.encoder import Embeddings
from denoiser.model.neighbours import SITUATIONS, TrueNeighbours, standard_error
from denoiser.model.network import RANKING_LEVELS, Network, weigh
from denoiser.model.noise import add_noise
from denoiser.model.ordering import nearest_rows, order_loss
from denoiser.model.seeding import seeded

SHARES = (1.0, 0.75, 0.5, 0.35, 0.25, 0.125)
# A network that learnt long is sure of too much in text unlike its own, and finds more when told less noise than there
# is; one that learnt briefly does not. At noise 0.1 the bundled one, told 1, 0.9 and 0.8 of it, gained .052, .054 and
# .056 with noisy queries on political essays, and .132, .133 and .130 on quotations.
TOLD = (1.0, 0.9, 0.8)
STEPS = 300
_ONLY_NOISY = torch.tensor([[1.0], [0.0]])  # weights of noisy vector and estimate
_ROWS = 512
_RATE = 0.03
_FIRST_SHARE = 0.5
_TOLD_AT = 0.2  # noise level; the parts differ most where the network sees little
_NARROW_PARTS = 12
_DRAWS = 6  # of noise: with three, a share at noise 0.15 lost 2.4 standard errors in a narrow part or gained one
# In standard errors. The English stores stand for all text: where they gain little, text that is less like them may
# lose. Of other languages no more is asked than that nothing is lost.
_LEAST_GAIN, _MOST_LOSS, _MOST_FOREIGN_LOSS = 3.0, 2.0, 1.0
# How far what is fitted for other languages counts: there are few stores, and embeddings of a language lie so close
# together that moving them towards their mean costs noisy queries their order, most in languages that little is known
# of. With 1, .75 and .5 of it, such queries gained -.012, -.006 and .002 in Chinese messages of a game at noise 0.1,
# and -.051, -.030 and -.010 in Greek ones; both noisy found 2.7, 2.6 and 2.4 times as many in a Chinese manual.
_FOREIGN_TRUST = 0.6


@dataclass(frozen=True)
class _At:
    """A noise level, and what part of it the network is told."""

    level: float
    told: float


Texts = Sequence[Sequence[Embeddings]]
"""Clean embeddings of several texts of each kind, English ones first: [kinds][stores]."""


def _fit_level(network: Network, kind: int, stores: Sequence[Tensor], at: _At, steps: int) -> tuple[Tensor, float]:
    """Weights [2, width] of the noisy vector and the estimate along the axes, for one kind of text; how much of the
    order is lost with them.
    """
    learnt = torch.zeros(2, network.shape["width"]).requires_grad_()
    sharpness = torch.zeros(len(SITUATIONS)).requires_grad_()
    first = torch.tensor([[1.0], [_FIRST_SHARE]])
    optimiser = torch.optim.Adam([learnt, sharpness], lr=_RATE)
    of_others = network.weights(torch.full((1, 1), at.level))
    losses = []
    for step, store in enumerate(islice(cycle(stores), steps)):
        order = torch.randperm(len(store))
        clean = store[order[:_ROWS] if (step // len(stores)) % 2 else nearest_rows(store, int(order[0]), _ROWS)]
        noisy = clean + at.level * torch.randn_like(clean)
        levels, told = (torch.full((len(clean), 1), level) for level in (at.level, at.told * at.level))
        with torch.no_grad():
            unit, direction = (functional.normalize(v) @ network.axes for v in (noisy, network(noisy, told)))
            kinds = network.kinds(network.rotate(noisy), levels)
        weights = of_others.index_put((torch.tensor(kind),), first * learnt.exp())
        loss = order_loss(functional.normalize(weigh(unit, direction, weights, kinds)), clean @ network.axes, sharpness)
        losses.append(loss.item())
        optimiser.param_groups[0]["lr"] = _RATE * (1 - step / steps)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    last = losses[steps // 2 :]
    return first * learnt.detach().exp(), sum(last) / max(1, len(last))


def fit_ranking(network: Network, texts: Texts, seed: int, done: Callable[[], None], steps: int = STEPS) -> float:
    """Set the network's ranking weights for each kind of text; returns what part of the noise level it is to be told,
    chosen on the English ones.

    `done` is called after each part tried, and after each noise level of each kind.
    """
    clean = [[torch.from_numpy(store) for store in stores] for stores in texts]

    def lost(told: float) -> float:
        with seeded(seed):
            _, loss = _fit_level(network, 0, clean[0], _At(_TOLD_AT, told), steps // 2)
        done()
        return loss

    told = min(TOLD, key=lost)
    for kind, stores in enumerate(clean):
        with seeded(seed):
            for i, level in enumerate(RANKING_LEVELS):
                weights, _ = _fit_level(network, kind, stores, _At(level, told), steps)
                network.ranking[kind, i].copy_(torch.lerp(_ONLY_NOISY, weights, _FOREIGN_TRUST) if kind else weights)
                done()
    return told


@dataclass(frozen=True)
class _Trial:
    """Rows of a store, their true neighbours, and what must be gained there, in standard errors."""

    rows: Tensor
    true: TrueNeighbours
    least: float


@dataclass(frozen=True)
class _Store:
    """Clean embeddings [n, width], and the trials on them: the whole store, and narrow parts of it."""

    clean: Embeddings
    trials: Sequence[_Trial]

    @classmethod
    def of(cls, clean: Embeddings) -> "_Store":
        rows, vectors = torch.arange(len(clean)), torch.from_numpy(clean)
        narrow = [nearest_rows(vectors, int(row), _ROWS) for row in rows[:_NARROW_PARTS]]
        tried = [(rows, _LEAST_GAIN), *((part, -_MOST_LOSS) for part in narrow)]
        return cls(clean, [_Trial(part, TrueNeighbours(clean[part.numpy()]), least) for part, least in tried])

    @classmethod
    def of_foreign(cls, clean: Embeddings) -> "_Store":
        return cls(clean, [_Trial(torch.arange(len(clean)), TrueNeighbours(clean), -_MOST_FOREIGN_LOSS)])


def _trying(network: Network, store: _Store, level: float, told: float, seed: int) -> Callable[[float], bool]:
    """Whether a share gains enough over no denoising in every trial and situation."""
    levels = torch.full((len(store.clean), 1), level)

    @cache
    def drawn() -> list[tuple[Tensor, Tensor]]:
        """Noisy vectors and their estimates; of a store that is not tried, none."""
        noisy = [torch.from_numpy(add_noise(store.clean, level, seed + draw)) for draw in range(_DRAWS)]
        with torch.inference_mode():
            return [(vectors, network(vectors, told * levels)) for vectors in noisy]

    def overlaps(trial: _Trial, vectors: Sequence[Tensor]) -> npt.NDArray[np.float64]:
        """By situation, draw and query."""
        found = [trial.true.overlaps(draw[trial.rows].numpy()) for draw in vectors]
        return np.array([[overlap[situation] for overlap in found] for situation in SITUATIONS])

    @cache
    def before(number: int) -> npt.NDArray[np.float64]:
        return overlaps(store.trials[number], [noisy for noisy, _ in drawn()])

    def helps(share: float) -> bool:
        shares = torch.full_like(levels, share)
        blended = [network.blend(noisy, estimate, levels, shares) for noisy, estimate in drawn()]
        gained = (overlaps(trial, blended) - before(number) for number, trial in enumerate(store.trials))
        return all(
            _in_errors(gains) >= trial.least
            for trial, found in zip(store.trials, gained, strict=True)
            for gains in found
        )

    return helps


def _in_errors(gains: npt.NDArray[np.float64]) -> float:
    """The mean of gains [draws, queries] in standard errors, over the queries and over the draws of noise."""
    error = math.hypot(standard_error(gains.mean(0)), standard_error(gains.mean(1)))
    return float(gains.mean()) / max(error, 1e-9)


def choose_shares(network: Network, texts: Texts, told: float, seed: int, done: Callable[[], None]) -> list[float]:
    """The shares for a checkpoint: at each level the largest share that helps every English store and harms none of its
    narrow parts, and no store of other languages.

    To help is to gain three standard errors in every situation, to harm to lose two of them in a narrow part, one in a
    store: of a hundred comparisons (narrow parts, in three situations) one or two lose two by chance where nothing
    changes, so nearly all must gain. Once noise has made the share fall, more noise does not raise it again. `done` is
    called after each level.
    """
    english, *others = texts
    tried_on = [*map(_Store.of, english), *(_Store.of_foreign(store) for stores in others for store in stores)]
    shares, most = list[float](), SHARES[0]
    for level in RANKING_LEVELS:
        tried = [_trying(network, store, level, told, seed) for store in tried_on]
        safe = (share for share in SHARES if share <= most and all(helps(share) for helps in tried))
        shares.append(next(safe, 0.0))
        if shares[-1] < max(shares):
            most = shares[-1]
        done()
    return shares
