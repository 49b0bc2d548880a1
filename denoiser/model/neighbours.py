"""Neighbour overlap@10: the share of a vector's true ten nearest (clean query, clean store, itself excluded) that are
found again with a noisy query, a noisy store, or both.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from denoiser.model.encoder import Embeddings

SITUATIONS = ("query", "store", "both")
_NEIGHBOURS = 10
QUERIES, FEWEST = 1000, 20
"""The most queries, and the fewest embeddings to measure on."""
_ROWS = 1024


def unit(vectors: Embeddings) -> Tensor:
    """The vectors [n, width] at length 1; zeros stay zeros."""
    return functional.normalize(torch.from_numpy(vectors), dim=1)


def unlike(vectors: Tensor, others: Tensor, cosine: float) -> Tensor:
    """Which unit vectors [n, width] have less than this cosine with each of the others [m, width]: [n]."""
    kept = torch.ones(len(vectors), dtype=torch.bool)
    for start in range(0, len(others), _ROWS):
        kept &= (vectors @ others[start : start + _ROWS].T).amax(1) < cosine
    return kept


def _nearest(queries: Tensor, store: Tensor) -> Tensor:
    similarity = queries @ store.T
    similarity.fill_diagonal_(-2)
    return similarity.topk(_NEIGHBOURS, dim=1).indices


def _found(queries: Tensor, store: Tensor, true: Tensor) -> npt.NDArray[np.float64]:
    nearest = _nearest(queries, store)
    return (nearest[:, :, None] == true[:, None, :]).any(2).double().mean(1).numpy()


def standard_error(values: npt.NDArray[np.float64]) -> float:
    """Of the mean of values [n], such as an overlap of each query."""
    return float(values.std() / np.sqrt(len(values)))


class TrueNeighbours:
    """The nearest rows of each of the first 1,000 clean embeddings [n, width]."""

    def __init__(self, clean: Embeddings) -> None:
        self._clean = unit(clean)
        self._nearest = _nearest(self._clean[:QUERIES], self._clean)

    def overlaps(self, denoised: Embeddings) -> dict[str, npt.NDArray[np.float64]]:
        """Overlap@10 of each of the first 1,000 rows as a query into all rows, by situation.

        A vector of zeros is as near to one neighbour as to another and finds none.
        """
        x, y, queries = self._clean, unit(denoised), slice(0, QUERIES)
        pairs = {"query": (y[queries], x), "store": (x[queries], y), "both": (y[queries], y)}
        if not denoised.any():
            return {name: np.zeros(len(self._nearest)) for name in pairs}
        return {name: _found(q, s, self._nearest) for name, (q, s) in pairs.items()}
