"""Which numbers vectors may hold, wherever they come from."""

from typing import Any

import numpy as np
import numpy.typing as npt

HIGHEST = 1000.0
ALLOWED = f"numbers must be finite and between {-HIGHEST:g} and {HIGHEST:g}"


def first_unusable(vectors: npt.NDArray[np.floating[Any]]) -> tuple[int, int] | None:
    """Row and column of the first number in vectors [n, width] that is not allowed."""
    usable = np.abs(vectors) <= HIGHEST
    if usable.all():
        return None
    row, column = np.argwhere(~usable)[0]
    return int(row), int(column)
