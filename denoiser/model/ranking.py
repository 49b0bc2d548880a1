"""What mode `neighbours` trusts, axis by axis: fitted so that a store's rows keep the order of their similarities.

Fitted on text the network was not trained on, for there alone it shows how far the network can be trusted; half of it
on narrow stores, whose rows are all alike, where it can be trusted least. What is fitted for one kind of text counts as
far as a vector is likely of that kind, in the fitting too: rows that are hard to tell apart must not be weighed so
differently that they no longer compare.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, cycle, islice

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
_ROWS = 512
_RATE = 0.03
_FIRST_SHARE = 0.5
_TOLD_AT = 0.2  # noise level; the parts differ most where the network sees little
_NARROW_PARTS = 12
_DRAWS = 6  # of noise: with three, a share at noise 0.15 lost 2.4 standard errors in a narrow part or gained one
# In standard errors. The stores stand for all text of their kind: where they gain little, text that is less like them
# may lose. In Hindi messages of another program noisy queries lost .006 at noise 0.1 with half of what is fitted, .019
# with three quarters.
_LEAST_GAIN, _MOST_LOSS = 3.0, 2.0


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
                network.ranking[kind, i].copy_(weights)
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
    def of(cls, clean: Embeddings, parts: int) -> "_Store":
        """With so many narrow parts."""
        rows, vectors = torch.arange(len(clean)), torch.from_numpy(clean)
        narrow = [nearest_rows(vectors, int(row), _ROWS) for row in rows[:parts]]
        tried = [(rows, _LEAST_GAIN), *((part, -_MOST_LOSS) for part in narrow)]
        return cls(clean, [_Trial(part, TrueNeighbours(clean[part.numpy()]), least) for part, least in tried])


Margins = Callable[[list[float]], Iterator[tuple[str, float]]]
"""How much more shares, one for each kind of text, gain than is asked of them in each trial, by situation."""


def _trying(network: Network, store: _Store, at: _At, seed: int) -> Margins:
    levels = torch.full((len(store.clean), 1), at.level)

    @cache
    def drawn() -> list[tuple[Tensor, Tensor]]:
        """Noisy vectors and their estimates; of a store that is not tried, none."""
        noisy = [torch.from_numpy(add_noise(store.clean, at.level, seed + draw)) for draw in range(_DRAWS)]
        with torch.inference_mode():
            return [(vectors, network(vectors, at.told * levels)) for vectors in noisy]

    def overlaps(trial: _Trial, vectors: Sequence[Tensor]) -> npt.NDArray[np.float64]:
        """By situation, draw and query."""
        found = [trial.true.overlaps(draw[trial.rows].numpy()) for draw in vectors]
        return np.array([[overlap[situation] for overlap in found] for situation in SITUATIONS])

    @cache
    def before(number: int) -> npt.NDArray[np.float64]:
        return overlaps(store.trials[number], [noisy for noisy, _ in drawn()])

    def margins(shares: list[float]) -> Iterator[tuple[str, float]]:
        of_rows = torch.tensor([shares]).expand(len(levels), -1)
        blended = [network.blend(noisy, estimate, levels, of_rows) for noisy, estimate in drawn()]
        for number, trial in enumerate(store.trials):
            for situation, gains in zip(SITUATIONS, overlaps(trial, blended) - before(number), strict=True):
                yield situation, _in_errors(gains) - trial.least

    return margins


def _in_errors(gains: npt.NDArray[np.float64]) -> float:
    """The mean of gains [draws, queries] in standard errors, over the queries and over the draws of noise."""
    error = math.hypot(standard_error(gains.mean(0)), standard_error(gains.mean(1)))
    return float(gains.mean()) / max(error, 1e-9)


def choose_shares(
    network: Network, texts: Texts, told: float, seed: int, done: Callable[[], None]
) -> list[list[float]]:
    """The shares for a checkpoint, of each kind of text by noise level. The English one is the largest that helps every
    English store, harms none of its narrow parts, and harms noisy queries in no store of another kind; where every one
    harms some, the largest that does all else. Another kind's is the largest up to which more does more for the store
    it does least for, or helps them all; at most the English one, for rows of one store may be of several kinds, and
    weighed in too different ways they do not compare.

    To help is to gain three standard errors in every situation, to harm to lose two of them: of a hundred comparisons
    (narrow parts, in three situations) one or two lose two by chance where nothing changes, so nearly all must gain.
    Once noise has made the English share fall, more noise does not raise it again. `done` is called after each level.
    """
    chosen, most = list[list[float]](), SHARES[0]
    stores = [[_Store.of(store, 0 if kind else _NARROW_PARTS) for store in sets] for kind, sets in enumerate(texts)]
    for level in RANKING_LEVELS:
        at = _At(level, told)
        english, *others = ([_trying(network, store, at, seed) for store in of_kind] for of_kind in stores)
        safe = (
            _with_others(share, others)
            for share in SHARES
            if share <= most and all(margin >= 0 for _, margin in _margins(english, [share] * len(texts)))
        )
        shares = _first_without_harm(safe, list(chain(*others))) or [0.0] * len(texts)
        if chosen and shares[0] < max(before[0] for before in chosen):
            most = shares[0]
        chosen.append(shares)
        done()
    return [list(of_kind) for of_kind in zip(*chosen, strict=True)]


def _margins(tried: Iterable[Margins], shares: list[float]) -> Iterator[tuple[str, float]]:
    return (margin for margins in tried for margin in margins(shares))


def _with_others(english: float, others: Sequence[Sequence[Margins]]) -> list[float]:
    """An English share, and the shares of the other kinds of text with it."""
    shares = [english]
    for tried in others:
        shares.append(_best_share(tried, shares, 1 + len(others)))
    return shares


def _best_share(tried: Sequence[Margins], before: list[float], kinds: int) -> float:
    """The share of a kind of text, after those of the kinds before it."""
    best, most = 0.0, -math.inf
    for share in (0.0, *(share for share in reversed(SHARES) if share <= before[0])):
        least = 0.0  # enough
        for _, margin in _margins(tried, [*before, *[share] * (kinds - len(before))]):
            least = min(least, margin)
            if least < most:
                return best
        best, most = share, least
    return best


def _first_without_harm(safe: Iterable[list[float]], others: Sequence[Margins]) -> list[float] | None:
    """Of lists of shares the first with which noisy queries lose in no store of another kind; else the very first.

    Those stores are tried as a whole, so `_LEAST_GAIN` is asked of each.
    """
    first = None
    for shares in safe:
        first = first or shares
        margins = (margin for situation, margin in _margins(others, shares) if situation == "query")
        if all(margin + _LEAST_GAIN >= -_MOST_LOSS for margin in margins):
            return shares
    return first
