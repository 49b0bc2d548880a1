"""The denoiser's HTTP bodies: numbers are strict and unknown fields are refused."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

HIGHEST_NOISE = 10.0

Mode = Literal["neighbours", "reconstruct"]
EncodingFormat = Literal["float", "base64"]
NoiseLevel = Annotated[float, Field(ge=0, le=HIGHEST_NOISE, allow_inf_nan=False)]


class DenoiseRequest(BaseModel):
    """What both denoise bodies share."""

    model_config = ConfigDict(extra="forbid", strict=True)

    noise_level: NoiseLevel = Field(default=0.0, description="standard deviation of the noise added before denoising")
    input_noise_level: NoiseLevel | Literal["auto"] = Field(
        default="auto", description="standard deviation of the noise the vectors already carry; auto estimates it"
    )
    mode: Mode = Field(
        default="neighbours",
        description="neighbours: unit vectors, best for search; reconstruct: smallest mean squared error",
    )
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="makes the added noise reproducible")
    encoding_format: EncodingFormat = Field(
        default="float",
        description="base64: rows are little-endian float32, in the request's embeddings and in the reply",
    )


class TextRequest(DenoiseRequest):
    """Body of POST /denoise/text. Of each text the encoder reads the first 256 word pieces."""

    texts: list[str] = Field(min_length=1)


class EmbeddingRequest(DenoiseRequest):
    """Body of POST /denoise/embedding."""

    embeddings: list[list[float] | str] = Field(min_length=1)


class DenoiseReply(BaseModel):
    """Reply of both denoise routes."""

    denoised_embeddings: list[list[float]] | list[str]
    shape: tuple[int, int]
    processing_time_ms: float


class Message(BaseModel):
    """A line for people."""

    message: str


class Health(BaseModel):
    """Reply of GET /health."""

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["healthy", "not_ready"]
    model_loaded: bool
    device: str | None


class Refusal(BaseModel):
    """Body of every error."""

    detail: str
