"""Requests from bytes to replies. Knows no web framework.

Reading and writing run in threads; encoding and denoising run in batches that requests share. What other requests
share a row's batch changes its result by rounding alone.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from pydantic import BaseModel

from denoiser.api.batching import Batcher, TextBatcher
from denoiser.api.requests import Limits, check_texts, read_body, read_vectors, write_rows, write_vectors
from denoiser.api.schemas import (
    Closeness,
    ComparedEmbeddings,
    CompareReply,
    CompareRequest,
    DenoiseReply,
    EmbeddingRequest,
    OpenAIEmbedding,
    OpenAIEmbeddingsReply,
    OpenAIEmbeddingsRequest,
    OpenAIUsage,
    TextComparison,
    TextRequest,
)
from denoiser.errors import InvalidInputError
from denoiser.model import Mode
from denoiser.model.adaptation import SMALLEST_STORE
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import BATCH_SIZE, MODEL_NAME, Embeddings, Encoder
from denoiser.model.noise import Level, Levels, add_noise, levels_of
from denoiser.vectors import closeness

DENOISED_AT_ONCE = 8192


@dataclass(frozen=True)
class Reply:
    """A JSON body, and how many embeddings it is about."""

    body: bytes
    rows: int


@dataclass(frozen=True)
class Noisy:
    """Embeddings [n, width] of one request, how noisy each is [n], and what they are for."""

    embeddings: Embeddings
    levels: Levels
    mode: Mode


def _measure(vectors: Embeddings, clean: Embeddings) -> list[Closeness]:
    return [Closeness(mse=float(e), cosine=float(c)) for e, c in zip(*closeness(vectors, clean), strict=True)]


def _mean(rows: Sequence[Closeness]) -> Closeness:
    return Closeness(mse=float(np.mean([r.mse for r in rows])), cosine=float(np.mean([r.cosine for r in rows])))


def _finish(reply: BaseModel, rows: int) -> Reply:
    return Reply(reply.model_dump_json(warnings=False, exclude_none=True).encode(), rows)


class Service:
    """A denoiser, which may be switched while requests run, the encoder for texts, and the limits on requests."""

    def __init__(self, denoiser: Denoiser, encoder: Encoder, limits: Limits) -> None:
        self.denoiser, self.encoder, self.limits = denoiser, encoder, limits
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._encoding = TextBatcher(encoder.encode_tokens, BATCH_SIZE, self._thread)
        self._denoising = Batcher(self._denoise_batch, lambda noisy: len(noisy.levels), DENOISED_AT_ONCE, self._thread)

    def switch(self, denoiser: Denoiser) -> None:
        """Denoise with another model from the next batch on."""
        self.denoiser = denoiser

    def close(self) -> None:
        """Finish the running batch; what waits is never computed."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def denoise(self, body: bytes, *kinds: type[TextRequest] | type[EmbeddingRequest]) -> Reply:
        """The reply to a denoise body of one of the kinds. Raises DenoiserError."""
        start = time.perf_counter()
        request = await asyncio.to_thread(read_body, body, self.limits, *kinds)
        clean = await self._vectors(request)
        noisy = await asyncio.to_thread(
            _prepare, clean, request.noise_level, request.input_noise_level, request.mode, request.seed
        )
        repaired = await self._denoising.run(noisy)
        return await asyncio.to_thread(_write_denoised, repaired, request, start)

    async def embed(self, body: bytes) -> Reply:
        """The reply to an OpenAI embeddings body. Raises DenoiserError."""
        request = await asyncio.to_thread(read_body, body, self.limits, OpenAIEmbeddingsRequest)
        texts = [request.input] if isinstance(request.input, str) else request.input
        check_texts(texts, "input")
        if request.dimensions not in (None, self.denoiser.width):
            raise InvalidInputError(
                f"dimensions is {request.dimensions}; this model gives {self.denoiser.width} and no other"
            )
        vectors, tokens = await self._encode(texts)
        if request.denoise:
            noisy = await asyncio.to_thread(_prepare, vectors, 0.0, "auto", "neighbours", None)
            vectors = await self._denoising.run(noisy)
        return await asyncio.to_thread(_write_embeddings, vectors, request, tokens)

    async def compare(self, body: bytes) -> Reply:
        """The reply to a compare body: noisy and denoised against clean. Raises DenoiserError."""
        start = time.perf_counter()
        request = await asyncio.to_thread(read_body, body, self.limits, CompareRequest)
        check_texts(request.texts)
        clean, _ = await self._encode(request.texts)
        noisy = await asyncio.to_thread(_prepare, clean, request.noise_level, "auto", request.mode, request.seed)
        denoised = await self._denoising.run(noisy)
        return await asyncio.to_thread(_write_comparison, request, clean, noisy.embeddings, denoised, start)

    async def _vectors(self, request: TextRequest | EmbeddingRequest) -> Embeddings:
        if isinstance(request, EmbeddingRequest):
            return await asyncio.to_thread(read_vectors, request, self.denoiser.width)
        check_texts(request.texts)
        vectors, _ = await self._encode(request.texts)
        return vectors

    async def _encode(self, texts: list[str]) -> tuple[Embeddings, int]:
        """Embeddings [n, width] of n texts, and how many tokens were read."""
        tokens = await asyncio.to_thread(self.encoder.tokenize, texts)
        return await self._encoding.run(tokens), sum(map(len, tokens))

    def _denoise_batch(self, requests: list[Noisy]) -> list[Embeddings]:
        """Requests share what the network computes at once, but for those whose rows are a store of their own."""
        denoiser, results = self.denoiser, [r.embeddings for r in requests]
        groups: dict[tuple[Mode, int | None], list[int]] = defaultdict(list)
        for i, r in enumerate(requests):
            groups[r.mode, i if len(r.levels) >= SMALLEST_STORE else None].append(i)
        for (mode, _), chosen in groups.items():
            embeddings = np.concatenate([requests[i].embeddings for i in chosen])
            levels = np.concatenate([requests[i].levels for i in chosen])
            denoised = denoiser.denoise(embeddings, levels, mode, together=len(chosen) == 1)
            for i, piece in zip(chosen, _split(denoised, [len(requests[i].levels) for i in chosen]), strict=True):
                results[i] = piece
        return results


def _split(vectors: Embeddings, counts: list[int]) -> list[Embeddings]:
    return [vectors[start:end] for start, end in pairwise(accumulate(counts, initial=0))]


def _prepare(clean: Embeddings, added: float, before: Level, mode: Mode, seed: int | None) -> Noisy:
    """Noise of level `added` on embeddings [n, width] that carry `before` already ("auto": estimated)."""
    return Noisy(add_noise(clean, added, seed), np.hypot(levels_of(clean, before), added), mode)


def _milliseconds(start: float) -> float:
    return round(1000 * (time.perf_counter() - start), 3)


def _write_embeddings(vectors: Embeddings, request: OpenAIEmbeddingsRequest, tokens: int) -> Reply:
    rows: Sequence[list[float] | str] = write_vectors(vectors, request.encoding_format or "float")
    reply = OpenAIEmbeddingsReply.model_construct(
        data=[OpenAIEmbedding.model_construct(index=i, embedding=row) for i, row in enumerate(rows)],
        model=MODEL_NAME,
        usage=OpenAIUsage(prompt_tokens=tokens, total_tokens=tokens),
    )
    return _finish(reply, len(rows))


def _write_denoised(repaired: Embeddings, request: TextRequest | EmbeddingRequest, start: float) -> Reply:
    reply = DenoiseReply.model_construct(
        denoised_embeddings=write_vectors(repaired, request.encoding_format),
        shape=repaired.shape,
        processing_time_ms=_milliseconds(start),
    )
    return _finish(reply, len(repaired))


def _write_comparison(
    request: CompareRequest, clean: Embeddings, noisy: Embeddings, denoised: Embeddings, start: float
) -> Reply:
    before, after = _measure(noisy, clean), _measure(denoised, clean)
    reply = CompareReply.model_construct(
        noise_level=request.noise_level,
        mean=TextComparison(noisy=_mean(before), denoised=_mean(after)),
        texts=[TextComparison(noisy=b, denoised=a) for b, a in zip(before, after, strict=True)],
        embeddings=ComparedEmbeddings.model_construct(
            clean=write_rows(clean), noisy=write_rows(noisy), denoised=write_rows(denoised)
        )
        if request.include_embeddings
        else None,
        processing_time_ms=_milliseconds(start),
    )
    return _finish(reply, len(clean))
