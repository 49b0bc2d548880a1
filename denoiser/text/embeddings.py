"""Text to embeddings for training and evaluation, computed once and kept in the cache folder.

No evaluation embedding is nearer than cosine 0.95 to a training embedding or to another one of its set. Which texts
that leaves out is known from training, and kept in the checkpoint: finding out again takes all training embeddings.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from denoiser.model.encoder import WIDTH, Embeddings
from denoiser.model.neighbours import unlike
from denoiser.text.corpus import Corpus, digest, writing
from denoiser.text.sources import Kind

_NEAR = 0.95


class CorpusEncoder(Protocol):
    """An encoder for many texts that tells how many it has just done."""

    def encode_corpus(self, texts: list[str], progress: Callable[[int], None]) -> Embeddings:
        """Unit vectors [n, width] of n texts."""
        ...


@dataclass(frozen=True)
class Data:
    """Training embeddings, evaluation and development embeddings by domain, and where the text comes from.

    `left_out` has the digests of the evaluation texts that are near others. `foreign` are embeddings of other kinds of
    text than English prose, `foreign_development` sets of them, both by kind.
    """

    training: Embeddings
    evaluation: dict[str, Embeddings]
    sources: list[dict[str, str]]
    development: dict[str, Embeddings]
    left_out: list[str]
    foreign: dict[Kind, Embeddings]
    foreign_development: dict[Kind, dict[str, Embeddings]]


def without_near_duplicates(embeddings: Embeddings, others: Embeddings) -> Embeddings:
    """The unit vectors [n, width] that are near none of the others and none of their own predecessors."""
    distinct: Embeddings = embeddings[_distinct(embeddings, others)]
    return distinct


def _distinct(embeddings: Embeddings, *others: Embeddings) -> npt.NDArray[np.bool_]:
    vectors = torch.from_numpy(embeddings)
    kept = torch.triu(vectors @ vectors.T, diagonal=1).amax(0) < _NEAR
    for some in others:
        kept &= unlike(vectors, torch.from_numpy(some), _NEAR)
    return kept.numpy()


def _encode(texts: list[str], encoder: CorpusEncoder, cache: Path, progress: Callable[[int], None]) -> Embeddings:
    if not texts:
        return np.empty((0, WIDTH), dtype=np.float32)
    name = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]
    path = cache / f"embeddings-{name}.npy"
    if path.is_file():
        progress(len(texts))
        kept: Embeddings = np.load(path)
        return kept
    with writing(cache):
        cache.mkdir(parents=True, exist_ok=True)
    embeddings = encoder.encode_corpus(texts, progress)
    with writing(cache):
        incoming = path.with_suffix(".incoming.npy")
        np.save(incoming, embeddings)
        incoming.rename(path)
    return embeddings


def prepare(corpus: Corpus, encoder: CorpusEncoder, cache: Path, progress: Callable[[int], None]) -> Data:
    """Embeddings of a corpus. Raises CorpusError when the cache folder cannot be written."""
    learnt, crossed = (_encode(texts, encoder, cache, progress) for texts in (corpus.learnt, corpus.crossed))
    foreign = {kind: _encode(texts, encoder, cache, progress) for kind, texts in corpus.foreign.items()}
    training = np.concatenate([learnt, crossed]) if len(crossed) else learnt

    def distinct(texts: list[str]) -> tuple[Embeddings, list[str]]:
        """Embeddings of those that are near no others, and the digests of those that are."""
        vectors = _encode(texts, encoder, cache, progress)
        kept = _distinct(vectors, training, *foreign.values())
        return vectors[kept], [digest(text) for text, keep in zip(texts, kept, strict=True) if not keep]

    def of_sets(sets: dict[str, list[str]]) -> dict[str, Embeddings]:
        return {name: distinct(texts)[0] for name, texts in sets.items()}

    development = of_sets(corpus.development)
    foreign_development = {kind: of_sets(sets) for kind, sets in corpus.foreign_development.items()}
    evaluation = {name: distinct(texts) for name, texts in corpus.evaluation.items()}
    left_out = [near for _, others in evaluation.values() for near in others]
    measured = {name: kept for name, (kept, _) in evaluation.items()}
    return Data(training, measured, corpus.sources, development, left_out, foreign, foreign_development)


def count_texts(corpus: Corpus) -> int:
    """How many texts `prepare` will encode."""
    sets = (corpus.evaluation, corpus.development, *corpus.foreign_development.values())
    texts = [
        corpus.learnt,
        corpus.crossed,
        *corpus.foreign.values(),
        *(of_set for by_name in sets for of_set in by_name.values()),
    ]
    return sum(map(len, texts))
