"""Bodies and vectors in and out: bytes to validated requests, rows to arrays, arrays to replies.

What leaves `read_vectors` is float32 [n, width], finite, at least one row. Every refusal names field, row and column.
"""

import base64
import binascii
import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pydantic_core
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from denoiser.api.schemas import HIGHEST_NOISE, Body, EmbeddingRequest, EncodingFormat
from denoiser.errors import InvalidInputError, TooLargeError
from denoiser.model.encoder import Embeddings
from denoiser.vectors import ALLOWED, first_unusable

LONGEST_TEXT = 100_000
_DECIMALS = 8
_TEXTS = ("texts", "input")  # never shown in a refusal
_ALLOWED = {
    "input": "; send a string or a list of strings (LangChain: check_embedding_ctx_length=False)",
    "noise_level": f" (allowed: 0 to {HIGHEST_NOISE:g})",
    "input_noise_level": f' (allowed: 0 to {HIGHEST_NOISE:g} or "auto")',
}


Content = TypeVar("Content", bound=Body)


@dataclass(frozen=True)
class Limits:
    """The most rows of numbers and the most texts taken in one request."""

    rows: int
    texts: int


def read_body(body: bytes, limits: Limits, *kinds: type[Content]) -> Content:
    """The request in a JSON body; of several kinds the one whose own field the body has.

    Raises InvalidInputError, and TooLargeError for more rows or texts than are taken.
    """
    try:
        content = pydantic_core.from_json(body.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise InvalidInputError(f"the body is not JSON ({error}); send one JSON object") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"the body is a JSON {type(content).__name__}; send one JSON object")
    fitting = [kind for kind in kinds if kind.own in content]
    if len(fitting) != 1:
        names = " or ".join(kind.own for kind in kinds)
        raise InvalidInputError(f"the body must hold {names}" + ("; it holds both" if fitting else ""))
    kind = fitting[0]
    _check_names(content, kind)
    _check_count(content[kind.own], kind, limits)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InvalidInputError(_explain(error)) from error


def _check_names(content: dict[str, object], kind: type[Body]) -> None:
    for name in content:
        if name not in kind.model_fields:
            raise InvalidInputError(f"unknown field {name!r:.60}; the fields are {', '.join(kind.model_fields)}")


def _check_count(items: object, kind: type[Body], limits: Limits) -> None:
    most: int = getattr(limits, kind.counted)
    if isinstance(items, list) and len(items) > most:
        raise TooLargeError(f"{kind.own} holds {len(items)} {kind.counted}; at most {most} are taken in one request")


def _place(error: ErrorDetails) -> str:
    steps = [
        step for step in error["loc"] if isinstance(step, int) or re.fullmatch(r"\w+", step) or len(error["loc"]) == 1
    ]
    named = [step for step in steps if step not in ("str", "float", "constrained")]
    return "".join(f"[{step}]" if isinstance(step, int) else str(step)[:60] for step in named)


def _explain(error: ValidationError) -> str:
    worst = max(error.errors(include_url=False, include_context=False), key=lambda e: len(e["loc"]))
    if worst["type"] in ("too_short", "string_too_short"):
        return f"{_place(worst)} is empty; at least one is needed"
    field = worst["loc"][0]
    allowed = _ALLOWED.get(str(field), "")
    given = "" if field in _TEXTS else f", not {worst['input']!r:.60}"
    return f"{_place(worst)}: {worst['msg'].lower().replace('input ', '')}{given}{allowed}"


def check_texts(texts: Sequence[str], field: str = "texts") -> None:
    """Raises InvalidInputError for an empty or overlong text."""
    for row, text in enumerate(texts):
        if not text.strip():
            raise InvalidInputError(f"{field}[{row}] is empty; every text needs at least one visible character")
        if len(text) > LONGEST_TEXT:
            raise InvalidInputError(f"{field}[{row}] has {len(text)} characters; at most {LONGEST_TEXT} are allowed")


def read_vectors(request: EmbeddingRequest, width: int) -> Embeddings:
    """The rows of a request as float32 [n, width]. Raises InvalidInputError."""
    vectors = [_read_row(number, row, request.encoding_format) for number, row in enumerate(request.embeddings)]
    for number, vector in enumerate(vectors):
        if len(vector) != width:
            raise InvalidInputError(
                f"embeddings[{number}] has {len(vector)} columns, the first missing or excess one is column "
                f"{min(len(vector), width)}; every row must have {width}"
            )
    array = np.stack(vectors)
    if unusable := first_unusable(array):
        number, column = unusable
        value = float(array[number, column])
        raise InvalidInputError(
            f"embeddings[{number}][{column}] is {value:g} (row {number}, column {column}); {ALLOWED}"
        )
    return array.astype(np.float32)


def _read_row(
    number: int, row: list[float] | str, encoding: EncodingFormat
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if isinstance(row, str) != (encoding == "base64"):
        found = "a string" if isinstance(row, str) else "a list of numbers"
        raise InvalidInputError(f'embeddings[{number}] is {found}, which does not fit encoding_format "{encoding}"')
    if not isinstance(row, str):
        return np.array(row, dtype=np.float64)
    try:
        return np.frombuffer(base64.b64decode(row, validate=True), dtype="<f4").astype(np.float64)
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError(f"embeddings[{number}] is not base64 of little-endian float32 ({error})") from error


def write_rows(vectors: Embeddings) -> list[list[float]]:
    """Rows for a reply as numbers with 8 decimals."""
    rounded: list[list[float]] = vectors.astype(np.float64).round(_DECIMALS).tolist()
    return rounded


def write_vectors(vectors: Embeddings, encoding: EncodingFormat) -> list[list[float]] | list[str]:
    """Rows for a reply: numbers with 8 decimals, or base64 of little-endian float32."""
    if encoding == "base64":
        return [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    return write_rows(vectors)
