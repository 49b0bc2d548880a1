"""What several tests measure of vectors."""

from typing import Any

import numpy as np
import numpy.typing as npt


def cosines(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Cosine of each row of [n, width] with the same row of the other: [n]."""
    found: npt.NDArray[Any] = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    return found
