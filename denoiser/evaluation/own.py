"""The user's own text and clean vectors as sets to measure on, named like their files."""

from pathlib import Path

import numpy as np

from denoiser.errors import CorpusError, FileError
from denoiser.files.formats import open_vectors
from denoiser.model.encoder import Embeddings, MiniLM, find_model
from denoiser.progress import say, tracking
from denoiser.text.plain import read_sentences

FEWEST = 50
_ROUNDING = 0.01  # how far from 1 the length of a clean vector in few bits may be


def _read_all(path: Path, column: str) -> Embeddings:
    vectors: Embeddings = np.concatenate(list(open_vectors(path, column).chunks()))
    return vectors


def _encode_own(path: Path) -> Embeddings:
    sentences = read_sentences(path, FEWEST, "to measure")
    with tracking(f"encoding {path.name}", len(sentences)) as advance:
        return MiniLM(find_model()).encode_corpus(sentences, lambda done: advance(done, "sentences"))


def own_sets(texts: list[Path], vectors: list[Path], column: str, width: int) -> dict[str, Embeddings]:
    """Clean embeddings [n, width] of each file. Raises FileError, CorpusError."""
    names = [path.name for path in (*vectors, *texts)]
    if alike := [name for name in names if names.count(name) > 1]:
        raise FileError(f"{alike[0]} is the name of several files, by which sets are told apart; rename all but one")
    sets = {path.name: _checked(path.name, _read_all(path, column), width) for path in vectors}
    return sets | {path.name: _checked(path.name, _encode_own(path), width) for path in texts}


def _checked(name: str, clean: Embeddings, width: int) -> Embeddings:
    if clean.shape[1] != width:
        raise FileError(f"{name} has rows of {clean.shape[1]} numbers; the model takes {width}")
    if len(clean) < FEWEST:
        raise CorpusError(f"{name} has {len(clean)} vectors; at least {FEWEST} are needed to measure")
    lengths = np.linalg.norm(clean, axis=1, keepdims=True)
    if not lengths.all():
        raise FileError(f"{name}: row {int(lengths.argmin())} is all zeros, which has no neighbours; leave it out")
    if np.abs(lengths - 1).max() > _ROUNDING:
        say(f"{name}: its vectors have lengths of {lengths.min():.3g} to {lengths.max():.3g}; all are measured at 1")
        return np.asarray(clean / lengths, dtype=np.float32)
    return clean
