"""Text to embeddings for training and evaluation, computed once and kept in the cache folder.

No evaluation embedding is nearer than cosine 0.95 to a training embedding or to another one of its set.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from denoiser.errors import CorpusError
from denoiser.model.encoder import Embeddings
from denoiser.model.neighbours import unlike
from denoiser.text.corpus import Corpus
from denoiser.text.sources import IN_DOMAIN

FEWEST = 200
_NEAR = 0.95


class CorpusEncoder(Protocol):
    """An encoder for many texts that tells how many it has just done."""

    def encode_corpus(self, texts: list[str], progress: Callable[[int], None]) -> Embeddings:
        """Unit vectors [n, width] of n texts."""
        ...


@dataclass(frozen=True)
class Data:
    """Training embeddings, evaluation and development embeddings by domain, and where the text comes from."""

    training: Embeddings
    evaluation: dict[str, Embeddings]
    sources: list[dict[str, str]]
    development: dict[str, Embeddings]


def without_near_duplicates(embeddings: Embeddings, others: Embeddings) -> Embeddings:
    """The unit vectors [n, width] that are near none of the others and none of their own predecessors."""
    vectors = torch.from_numpy(embeddings)
    kept = unlike(vectors, torch.from_numpy(others), _NEAR)
    kept &= torch.triu(vectors @ vectors.T, diagonal=1).amax(0) < _NEAR
    distinct: Embeddings = embeddings[kept.numpy()]
    return distinct


def _encode(texts: list[str], encoder: CorpusEncoder, cache: Path, progress: Callable[[int], None]) -> Embeddings:
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]
    path = cache / f"embeddings-{digest}.npy"
    if path.is_file():
        progress(len(texts))
        kept: Embeddings = np.load(path)
        return kept
    embeddings = encoder.encode_corpus(texts, progress)
    cache.mkdir(parents=True, exist_ok=True)
    incoming = path.with_suffix(".incoming.npy")
    np.save(incoming, embeddings)
    incoming.rename(path)
    return embeddings


def prepare(corpus: Corpus, encoder: CorpusEncoder, cache: Path, progress: Callable[[int], None]) -> Data:
    """Embeddings of a corpus; the held-out part of its training text is the in-domain evaluation set.

    Raises CorpusError when there are fewer than 200 sentences to train on.
    """
    if len(corpus.training) < FEWEST:
        raise CorpusError(f"found {len(corpus.training)} usable sentences; at least {FEWEST} are needed to train")
    training = _encode(corpus.learnt, encoder, cache, progress)
    if corpus.crossed:
        training = np.concatenate([training, _encode(corpus.crossed, encoder, cache, progress)])
    evaluation = {IN_DOMAIN: corpus.held_out, **corpus.evaluation}
    sets = {**evaluation, **corpus.development}
    encoded = {
        name: without_near_duplicates(_encode(texts, encoder, cache, progress), training)
        for name, texts in sets.items()
    }
    development = {name: encoded.pop(name) for name in corpus.development}
    return Data(training, encoded, corpus.sources, development)


def count_texts(corpus: Corpus) -> int:
    """How many texts `prepare` will encode."""
    return sum(map(len, [corpus.training, corpus.crossed, *corpus.evaluation.values(), *corpus.development.values()]))
