"""The denoiser's HTTP bodies: numbers are strict and unknown fields are refused."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from denoiser.model import Mode

HIGHEST_NOISE = 10.0

EncodingFormat = Literal["float", "base64"]
NoiseLevel = Annotated[float, Field(ge=0, le=HIGHEST_NOISE, allow_inf_nan=False)]
# The first wrong item ends the reading of a list: an error for each of millions took gigabytes.
Texts = Annotated[list[str], Field(fail_fast=True)]
Row = Annotated[list[float], Field(fail_fast=True)]
Rows = Annotated[list[Row | str], Field(fail_fast=True)]


class Body(BaseModel):
    """A JSON body; `own` is the field that tells its kind from others and may not be missing, and holds so many of what
    is `counted`.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    own: ClassVar[str]
    counted: ClassVar[Literal["rows", "texts"]] = "texts"


class DenoiseRequest(Body):
    """What both denoise bodies share."""

    noise_level: NoiseLevel = Field(default=0.0, description="standard deviation of the noise added before denoising")
    input_noise_level: NoiseLevel | Literal["auto"] = Field(
        default="auto", description="standard deviation of the noise the vectors already carry; auto estimates it"
    )
    mode: Mode = Field(
        default="neighbours",
        description="neighbours: unit vectors, best for search; reconstruct: smallest mean squared error; in both, the "
        "rows of a request help each other, from 200 on",
    )
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="makes the added noise reproducible")
    encoding_format: EncodingFormat = Field(
        default="float",
        description="base64: rows are little-endian float32, in the request's embeddings and in the reply",
    )


class TextRequest(DenoiseRequest):
    """Body of POST /denoise/text. Of each text the encoder reads the first 256 word pieces."""

    own = "texts"
    texts: Texts = Field(min_length=1)


class EmbeddingRequest(DenoiseRequest):
    """Body of POST /denoise/embedding."""

    own, counted = "embeddings", "rows"
    embeddings: Rows = Field(min_length=1)


class CompareRequest(Body):
    """Body of POST /compare."""

    own = "texts"
    texts: Texts = Field(min_length=1)
    noise_level: NoiseLevel = Field(default=0.1, description="standard deviation of the noise added")
    seed: int | None = Field(default=0, ge=0, lt=2**63, description="makes the noise reproducible; null: new each time")
    mode: Mode = "neighbours"
    include_embeddings: bool = Field(default=False, description="add the clean, noisy and denoised vectors")


class OpenAIEmbeddingsRequest(Body):
    """Body of POST /v1/embeddings, as OpenAI's clients send it, and `denoise`."""

    own = "input"
    input: str | Texts = Field(min_length=1)
    model: str | None = Field(default=None, description="any name; the reply says which model answered")
    encoding_format: EncodingFormat | None = Field(default=None, description="null is float")
    dimensions: int | None = Field(default=None, description="only the model's own width, 384")
    user: str | None = Field(default=None, description="taken and not used")
    denoise: bool = Field(default=False, description="denoise the embeddings, their noise level estimated")


class DenoiseReply(BaseModel):
    """Reply of both denoise routes."""

    denoised_embeddings: list[list[float]] | list[str]
    shape: tuple[int, int]
    processing_time_ms: float


class Closeness(BaseModel):
    """How near vectors are to the clean ones: mean squared error over the numbers, and cosine."""

    mse: float
    cosine: float


class TextComparison(BaseModel):
    """One text of POST /compare."""

    noisy: Closeness
    denoised: Closeness


class ComparedEmbeddings(BaseModel):
    """The vectors behind the figures of POST /compare, rows in the order of the texts."""

    clean: list[list[float]]
    noisy: list[list[float]]
    denoised: list[list[float]]


class CompareReply(BaseModel):
    """Reply of POST /compare."""

    noise_level: float
    mean: TextComparison
    texts: list[TextComparison]
    embeddings: ComparedEmbeddings | None = None
    processing_time_ms: float


class OpenAIEmbedding(BaseModel):
    """One row of OpenAI's reply; base64 is little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class OpenAIUsage(BaseModel):
    """Word pieces read by the encoder."""

    prompt_tokens: int
    total_tokens: int


class OpenAIEmbeddingsReply(BaseModel):
    """Reply of POST /v1/embeddings."""

    object: Literal["list"] = "list"
    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage


class OpenAIModel(BaseModel):
    """The encoder in OpenAI's list of models."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time at which the service started")
    owned_by: str = "denoiser"


class OpenAIModels(BaseModel):
    """Reply of GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[OpenAIModel]


class UploadAccepted(BaseModel):
    """Reply of POST /upload/: the job waits."""

    filename: str
    word_count: int
    job_id: str
    status_url: str


class UploadTrained(BaseModel):
    """Reply of POST /upload/?wait=true: the last training loss (1 is the Wiener filter's)."""

    filename: str
    word_count: int
    loss: float


class Progress(BaseModel):
    """Steps of the job's present phase."""

    done: int
    total: int


class LossPoint(BaseModel):
    """A point of the loss curve."""

    step: int
    loss: float


class Figures(BaseModel):
    """One method at one noise level on the held-out sentences; overlap by situation: query, store, both."""

    method: str
    noise_level: float
    mse: float
    cosine: float
    overlap: dict[str, float]


class JobReply(BaseModel):
    """A training job; `losses` only where one job is asked for."""

    job_id: str
    filename: str
    word_count: int
    sentences: int
    state: Literal["queued", "encoding", "training", "evaluating", "promoting", "done", "failed", "cancelled"]
    progress: Progress
    loss: float | None
    losses: list[LossPoint] = []
    figures: list[Figures]
    promoted: bool
    message: str
    created_at: datetime
    ended_at: datetime | None


class ModelReply(BaseModel):
    """A checkpoint that can be switched to."""

    model_id: str
    active: bool
    sha256: str
    filename: str | None
    sentences: int | None
    created_at: datetime | None
    figures: list[Figures]
    message: str


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


class OpenAIError(BaseModel):
    """Where OpenAI's clients look for the reason."""

    message: str
    code: int


class OpenAIRefusal(Refusal):
    """Body of every error of POST /v1/embeddings."""

    error: OpenAIError


def refusals(*statuses: int, body: type[Refusal] = Refusal) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of refusals with these statuses."""
    return {status: {"model": body} for status in statuses}
