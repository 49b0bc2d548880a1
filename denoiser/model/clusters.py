"""Where vectors lie close together: k-means, by the algorithm of Lloyd (1982)."""

import torch
from torch import Tensor

_ROUNDS = 15
_MOST_ROWS = 60_000


def cluster_means(vectors: Tensor, count: int) -> Tensor:
    """Means [count, width] of so many clusters of vectors [n, width], n >= count; of many vectors a random part tells.

    Means start at random vectors; one to which no vector is nearest stays where it is.
    """
    drawn = vectors[torch.randperm(len(vectors), device=vectors.device)[:_MOST_ROWS]]
    means = drawn[:count].clone()
    for _ in range(_ROUNDS):
        nearest = torch.cdist(drawn, means).argmin(1)
        sums = torch.zeros_like(means).index_add_(0, nearest, drawn)
        sizes = torch.bincount(nearest, minlength=count)[:, None]
        means = torch.where(sizes > 0, sums / sizes.clamp_min(1), means)
    return means
