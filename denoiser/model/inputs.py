"""What the denoiser's public methods take. Anything else is refused by its name and value, with what is allowed."""

from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from denoiser.errors import InvalidInputError
from denoiser.model import Mode
from denoiser.model.encoder import Embeddings
from denoiser.model.noise import Levels
from denoiser.vectors import ALLOWED, first_unusable

_MOST_NOISE = 1e6


def check_mode(mode: Any) -> None:
    """Raises InvalidInputError."""
    if mode not in get_args(Mode):
        raise InvalidInputError(f"mode is {mode!r:.60}; {' or '.join(map(repr, get_args(Mode)))} is needed")


def check_level(level: Any) -> None:
    """One noise level for all rows, or "auto". Raises InvalidInputError."""
    given = level.item() if isinstance(level, np.generic) else level
    if isinstance(given, str) and given == "auto":
        return
    if not (isinstance(given, int | float) and 0 <= given <= _MOST_NOISE):
        raise InvalidInputError(
            f"noise_level is {level!r:.60}; 'auto' or a number from 0 to {_MOST_NOISE:,.0f} is needed"
        )


def _array(given: Any, name: str) -> npt.NDArray[Any]:
    try:
        found = np.asarray(given)
    except ValueError as error:
        raise InvalidInputError(f"{name} has rows of different lengths; an array is needed") from error
    if found.dtype.kind not in "fiu":
        raise InvalidInputError(f"{name} holds {found.dtype}; numbers are needed")
    return found


def as_vectors(embeddings: Any, width: int, fewest: int = 0) -> Embeddings:
    """Embeddings as an array [n, width], n >= fewest, of the precision that they have. Raises InvalidInputError."""
    vectors: Embeddings = _array(embeddings, "embeddings")
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise InvalidInputError(f"embeddings has the shape {vectors.shape}; [rows, {width}] is needed")
    if len(vectors) < fewest:
        raise InvalidInputError(f"embeddings has {len(vectors)} rows; at least {fewest} are needed")
    return vectors


def usable(vectors: Embeddings, start: int = 0) -> Embeddings:
    """The same vectors, which are the rows from `start` on. Raises InvalidInputError for a number not allowed."""
    if found := first_unusable(vectors):
        row, column = found
        raise InvalidInputError(f"embeddings[{start + row}, {column}] is {vectors[row, column]:g}; {ALLOWED}")
    return vectors


def as_levels(levels: Any, rows: int) -> Levels:
    """Noise levels as an array [rows]. Raises InvalidInputError."""
    found: Levels = _array(levels, "levels").astype(np.float64)
    if found.shape != (rows,):
        raise InvalidInputError(f"levels has the shape {found.shape}; ({rows},) is needed, a noise level for each row")
    unusable = ~((found >= 0) & (found <= _MOST_NOISE))
    if unusable.any():
        row = int(unusable.argmax())
        raise InvalidInputError(f"levels[{row}] is {found[row]:g}; numbers from 0 to {_MOST_NOISE:,.0f} are needed")
    return found
