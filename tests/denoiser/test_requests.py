"""Reading vectors: whatever is not a finite float32 matrix of the right width is refused with row and column."""

import base64
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from denoiser.api.requests import Limits, read_body, read_vectors, write_vectors
from denoiser.api.schemas import EmbeddingRequest, TextRequest
from denoiser.errors import DenoiserError, InvalidInputError

LIMITS = Limits(rows=5, texts=2000)
NUMBERS = st.floats(-1000, 1000, width=32)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


def read(
    embeddings: object, encoding: str = "float", width: int = 3
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    request = read_body(
        json.dumps({"embeddings": embeddings, "encoding_format": encoding}).encode(),
        LIMITS,
        EmbeddingRequest,
        TextRequest,
    )
    assert isinstance(request, EmbeddingRequest)
    return read_vectors(request, width)


@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=5))
def test_good_vectors_are_read_exactly_in_both_encodings(rows: list[list[float]]) -> None:
    expected = np.array(rows, dtype=np.float32)
    np.testing.assert_array_equal(read(rows), expected)
    packed = write_vectors(expected, "base64")
    np.testing.assert_array_equal(read(packed, "base64"), expected)


@given(st.integers(0, 3), st.integers(0, 2), st.sampled_from([float("nan"), float("inf"), -float("inf"), 1001, -1e30]))
def test_a_bad_number_is_named_by_row_and_column(row: int, column: int, bad: float) -> None:
    rows = np.zeros((4, 3))
    rows[row, column] = bad
    with pytest.raises(InvalidInputError, match=rf"embeddings\[{row}\]\[{column}\] .*row {row}, column {column}"):
        read(rows.tolist())
    packed = [base64.b64encode(r.astype("<f4").tobytes()).decode() for r in rows]
    with pytest.raises(InvalidInputError, match=rf"embeddings\[{row}\]\[{column}\]"):
        read(packed, "base64")


@given(st.integers(0, 3), st.integers(0, 8).filter(lambda width: width != 3))
def test_a_row_of_another_width_is_named(row: int, width: int) -> None:
    rows = [[0.0] * 3 for _ in range(4)]
    rows[row] = [0.0] * width
    with pytest.raises(InvalidInputError, match=rf"embeddings\[{row}\] has {width} columns"):
        read(rows)


@given(JSON)
def test_any_json_is_read_or_refused_in_one_line(content: object) -> None:
    for embeddings in (content, [content], [[content] * 3]):
        refusals: list[str] = []
        try:
            read(embeddings)
        except DenoiserError as error:
            refusals.append(str(error))
        assert all("\n" not in refusal and len(refusal) < 400 for refusal in refusals)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        read_body(body, LIMITS, TextRequest, EmbeddingRequest)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"texts": [1] * 1500}, "texts[0]: should be a valid string"),
        ({"embeddings": [["1"] * 3] * 5}, "embeddings[0][0]: should be a valid number, not '1'"),
        ({"embeddings": [None] * 5}, "embeddings[0]: should be a valid list, not None"),
        ({"texts": [1] * 2001}, "texts holds 2001 texts; at most 2000 are taken in one request"),
        ({"embeddings": [[]] * 6}, "embeddings holds 6 rows; at most 5 are taken in one request"),
    ],
)
def test_one_wrong_item_is_enough_and_too_many_are_not_read(content: object, complaint: str) -> None:
    with pytest.raises(DenoiserError, match=f"^{re.escape(complaint)}$") as refusal:
        read_body(json.dumps(content).encode(), LIMITS, TextRequest, EmbeddingRequest)
    reason = refusal.value.__cause__
    assert not isinstance(reason, ValidationError) or reason.error_count() <= len(("of a list", "of a string"))
