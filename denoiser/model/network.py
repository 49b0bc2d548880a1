"""The denoising network: a Wiener filter in the principal axes of the training text, corrected by residual blocks.

At noise level 0 it is the identity exactly, whatever its weights; an untrained network is the Wiener filter.

Most of what it learns is English prose, the encoder's language. Embeddings of another language lie close together
elsewhere, so do those of program lines, and for search an estimate of them must be weighed otherwise. How likely a
noisy vector is of such a kind depends on whether it is nearer to the mean of English or to means of that kind (linear
discriminant analysis).
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

RANKING_LEVELS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
_FOREIGN_ODDS = -2.0  # of each kind; natural logarithm; before anything is known of a vector
_CLUSTERED_AT = 0.1  # noise level at which distances between clusters count
_CLUSTERING_ROUNDS = 20
LOWEST_LEVEL, HIGHEST_LEVEL = 0.01, 0.35  # trained on; beyond, the blocks see the nearest of the two


@cache
def _ranking_levels(device: torch.device) -> Tensor:
    return torch.tensor(RANKING_LEVELS, device=device)


def between_levels(table: Tensor, level: Tensor) -> Tensor:
    """Rows [n, ...] of a table [levels, ...] of values at `RANKING_LEVELS`, interpolated at noise levels [n, 1]."""
    levels = _ranking_levels(level.device)
    seen = level[:, 0].clamp(RANKING_LEVELS[0], RANKING_LEVELS[-1])
    above = torch.searchsorted(levels, seen).clamp_min(1)
    part = (seen - levels[above - 1]) / (levels[above] - levels[above - 1])
    return torch.lerp(table[above - 1], table[above], part.view(-1, *[1] * (table.dim() - 1)))


class _Block(nn.Module):
    """h + MLP(LayerNorm(h), noise level), zero at the start."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, hidden)
        self.level = nn.Sequential(nn.Linear(1, 32), nn.GELU(), nn.Linear(32, hidden))
        self.narrow = nn.Linear(hidden, width)
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def forward(self, h: Tensor, level: Tensor) -> Tensor:
        widened = self.widen(self.norm(h)) + self.level(level)
        return h + cast(Tensor, self.narrow(nn.functional.gelu(widened)))


def weigh(noisy: Tensor, estimate: Tensor, weights: Tensor, kinds: Tensor) -> Tensor:
    """Sums of coordinates [n, width] of noisy vectors and of their estimates, in which the two count as weights
    [kinds, n or 1, 2, width] say for each kind of text, and each kind as far as it is likely: kinds [n, kinds].
    """
    sums = torch.zeros_like(noisy)
    for of_kind, likely in zip(weights, kinds.unbind(1), strict=True):
        of_noisy, of_estimate = of_kind.unbind(1)
        sums = sums + likely[:, None] * (of_noisy * noisy + of_estimate * estimate)
    return sums


class Network(nn.Module):
    """Estimates clean embeddings from noisy ones of known noise level.

    `mean` [width], `axes` (the principal axes as columns) and `variances` along them are of English prose. `foreign`
    [kinds - 1, n, width] are means of clusters of the other kinds of text, in coordinates along the axes; n may be 0.
    `ranking` [kinds, levels, 2, width] weighs the noisy vector and the estimate along each axis, for English prose
    first. `known` [n, width] are clean embeddings to be recognised (see `memory`).
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    foreign: Tensor
    ranking: Tensor
    known: Tensor

    def __init__(  # noqa: PLR0913
        self, width: int, hidden: int, blocks: int, *, known: int = 0, foreign: int = 0, foreign_kinds: int = 0
    ) -> None:
        super().__init__()
        self._sizes = {"width": width, "hidden": hidden, "blocks": blocks}
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("axes", torch.eye(width))
        self.register_buffer("variances", torch.ones(width))
        self.register_buffer("foreign", torch.zeros(foreign_kinds, foreign, width))
        kinds = 1 + foreign_kinds if foreign else 1
        self.register_buffer("ranking", torch.ones(kinds, len(RANKING_LEVELS), 2, width))
        self.register_buffer("known", torch.zeros(known, width))
        self.blocks = nn.ModuleList(_Block(width, hidden) for _ in range(blocks))

    @property
    def shape(self) -> dict[str, int]:
        """The arguments that make a network of the same shape."""
        kinds, clusters, _ = self.foreign.shape
        return {**self._sizes, "known": len(self.known), "foreign": clusters, "foreign_kinds": kinds}

    @property
    def last_axes(self) -> Tensor:
        """The last third of the axes [width, width // 3], along which clean embeddings hardly differ."""
        return self.axes[:, -(self.axes.shape[1] // 3) :]

    def fit(self, clean: Tensor, foreign: Sequence[Tensor]) -> None:
        """Take mean, axes and variances from clean embeddings [n, width] of English prose, and the means of clusters of
        the other kinds of text from foreign ones [m, width] of each, m >= the number of means.
        """
        self.mean.copy_(clean.mean(0))
        variances, axes = torch.linalg.eigh(torch.cov(clean.double().T))
        self.axes.copy_(axes.flip(1))
        self.variances.copy_(variances.flip(0).clamp_min(1e-7))
        for means, of_kind in zip(self.foreign, foreign, strict=True):
            means.copy_(self._cluster_means(self.rotate(of_kind), len(means)))

    def _cluster_means(self, coordinates: Tensor, count: int) -> Tensor:
        """Means of so many clusters of coordinates [n, width], found by k-means."""
        from sklearn.cluster import KMeans  # noqa: PLC0415

        scale = (self.variances + _CLUSTERED_AT**2).sqrt()
        clusters = KMeans(count, max_iter=_CLUSTERING_ROUNDS, random_state=0)
        means = clusters.fit((coordinates / scale).cpu().numpy()).cluster_centers_
        return scale * torch.from_numpy(means).to(scale)

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

    def correction(self, noisy: Tensor, level: Tensor) -> Tensor:
        """What to add to noisy coordinates [n, width] of noise levels [n, 1] to get the clean ones."""
        total = self.variances + level**2
        start = h = noisy / total.sqrt()
        seen = level.clamp(LOWEST_LEVEL, HIGHEST_LEVEL).log()
        for block in self.blocks:
            h = block(h, seen)
        deviation = (self.variances * level**2 / total).sqrt()
        return (h - start) * deviation - noisy * level**2 / total

    def _cluster_odds(self, noisy: Tensor, level: Tensor) -> Tensor:
        """Natural logarithm of the odds that noisy coordinates [n, width] of noise levels [n, 1] are of each cluster of
        other text rather than of English prose: [n, kinds - 1, clusters].
        """
        precision, means = 1 / (self.variances + level**2), self.foreign.flatten(0, 1)
        nearer = (noisy * precision) @ means.T - precision @ (means**2).T / 2
        kinds, clusters, _ = self.foreign.shape
        return nearer.view(len(noisy), kinds, clusters) - math.log(max(1, clusters)) + _FOREIGN_ODDS

    def log_kinds(self, noisy: Tensor, level: Tensor) -> Tensor:
        """Natural logarithm of how likely noisy coordinates [n, width] of noise levels [n, 1] are of each kind of text:
        [n, kinds].
        """
        if not self.foreign.numel():
            return torch.zeros_like(level)
        odds = self._cluster_odds(noisy, level).logsumexp(2)
        return torch.cat([torch.zeros_like(level), odds], dim=1).log_softmax(1)

    def common(self, noisy: Tensor, level: Tensor) -> Tensor:
        """What noisy coordinates [n, width] of noise levels [n, 1] have in common with other text of their clusters:
        means [n, width] by how likely each cluster is, in embeddings' own directions.
        """
        odds = self._cluster_odds(noisy, level).flatten(1)
        likely = torch.cat([torch.zeros_like(level), odds], dim=1).softmax(1)[:, 1:]
        return self.mean + likely @ self.foreign.flatten(0, 1) @ self.axes.T

    def kinds(self, noisy: Tensor, level: Tensor) -> Tensor:
        """How likely noisy coordinates [n, width] of noise levels [n, 1] are of each kind of text: [n, kinds]."""
        return self.log_kinds(noisy, level).exp()

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        """Clean embeddings [n, width] estimated from noisy ones [n, width] of noise levels [n, 1]."""
        return noisy + self.correction(self.rotate(noisy), level) @ self.axes.T

    def weights(self, level: Tensor) -> Tensor:
        """`ranking` at noise levels [n, 1]: [kinds, n, 2, width]."""
        return torch.stack([between_levels(table, level) for table in self.ranking])

    def mix(self, unit: Tensor, direction: Tensor, level: Tensor, kinds: Tensor) -> Tensor:
        """Unit coordinates [n, width] of noisy vectors and of their estimates, weighed for search, not of length 1."""
        return weigh(unit, direction, self.weights(level), kinds)

    def blend(self, noisy: Tensor, estimate: Tensor, level: Tensor, shares: Tensor, nearer: float = 0.0) -> Tensor:
        """Unit vectors [n, width] for search: both inputs weighed along the axes, as far as the shares [n, kinds] of
        the kinds of text say.

        Shares of 0 keep the direction of the noisy vectors. `nearer` adds so much more of the estimate, along all axes.
        """
        unit, direction = functional.normalize(noisy), functional.normalize(estimate)
        turned, trusted = unit @ self.axes, shares * self.kinds(self.rotate(noisy), level)
        share = trusted.sum(1, keepdim=True)
        change = self.mix(turned, direction @ self.axes, level, trusted) - share * turned
        blended = functional.normalize(unit + change @ self.axes.T)
        return functional.normalize(blended + nearer * share * direction) if nearer else blended
