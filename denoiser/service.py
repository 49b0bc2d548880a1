"""One denoise request from bytes to reply. Knows no web framework; everything in it may run in any thread."""

import time
from dataclasses import dataclass

from denoiser.denoise import Denoiser
from denoiser.encoder import Embeddings, Encoder
from denoiser.requests import check_texts, read_body, read_vectors, write_vectors
from denoiser.schemas import DenoiseReply, EmbeddingRequest, TextRequest


@dataclass(frozen=True)
class Limits:
    """The most rows of numbers and the most texts taken in one request."""

    rows: int
    texts: int


@dataclass(frozen=True)
class Service:
    """A denoiser, the encoder for texts, and the limits on requests."""

    denoiser: Denoiser
    encoder: Encoder
    limits: Limits

    def reply(self, body: bytes, *kinds: type[TextRequest] | type[EmbeddingRequest]) -> tuple[bytes, int]:
        """The JSON reply to a JSON body of one of the kinds, and its number of rows. Raises DenoiserError."""
        start = time.perf_counter()
        request = read_body(body, *kinds)
        vectors = self._vectors(request)
        repaired = self.denoiser.repair(
            vectors, request.noise_level, request.input_noise_level, request.mode, request.seed
        )
        reply = DenoiseReply.model_construct(
            denoised_embeddings=write_vectors(repaired, request.encoding_format),
            shape=repaired.shape,
            processing_time_ms=round(1000 * (time.perf_counter() - start), 3),
        )
        return reply.model_dump_json(warnings=False).encode(), len(repaired)

    def _vectors(self, request: TextRequest | EmbeddingRequest) -> Embeddings:
        if isinstance(request, EmbeddingRequest):
            return read_vectors(request, self.denoiser.width, self.limits.rows)
        check_texts(request.texts, self.limits.texts)
        return self.encoder.encode(request.texts)
