"""Vectors, wherever they come from: which numbers they may hold, and how near they are to clean ones."""

from typing import Any

import numpy as np
import numpy.typing as npt

HIGHEST = 1000.0
ALLOWED = f"numbers must be finite and between {-HIGHEST:g} and {HIGHEST:g}"


def first_unusable(vectors: npt.NDArray[np.floating[Any]]) -> tuple[int, int] | None:
    """Row and column of the first number in vectors [n, width] that is not allowed."""
    usable = (vectors >= -HIGHEST) & (vectors <= HIGHEST)  # the least whole number has no absolute value
    if usable.all():
        return None
    row, column = np.argwhere(~usable)[0]
    return int(row), int(column)


def closeness(
    vectors: npt.NDArray[np.floating[Any]], clean: npt.NDArray[np.floating[Any]]
) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.floating[Any]]]:
    """Of each row of vectors [n, width] to the clean one: squared error, the mean over its numbers [n], and cosine [n],
    which is 0 for zeros."""
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(clean, axis=1)
    return ((vectors - clean) ** 2).mean(1), (vectors * clean).sum(1) / np.maximum(lengths, 1e-12)
