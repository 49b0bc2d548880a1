"""Reads a SentencePiece `tokenizer.model` into plain values.

The file is a protocol buffer; the few fields needed are read here, so that no protobuf runtime has to be installed.
Field numbers and defaults are those of sentencepiece_model.proto.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from chatglm2.errors import CheckpointError

Value = int | bytes
BPE = 2  # TrainerSpec.ModelType


class PieceType(IntEnum):
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    score: float
    type: PieceType


@dataclass(frozen=True)
class SentencePieceModel:
    pieces: list[Piece]  # in the order of their ids
    model_type: int
    byte_fallback: bool
    space_as_suffix: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Raises CheckpointError when the file is missing or is not a SentencePiece model."""
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not found; copy the tokenizer.model that belongs to the checkpoint") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(f"{path}: not a whole SentencePiece model ({error}); download it again") from error


def _parse(data: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    for number, value in _fields(data):
        match number, value:
            case 1, bytes():
                pieces.append(_piece(dict(_fields(value))))
            case 2, bytes():
                trainer = dict(_fields(value))
            case 3, bytes():
                normalizer = dict(_fields(value))
    if not pieces:
        raise ValueError("no pieces")
    return SentencePieceModel(
        pieces=pieces,
        model_type=_number(trainer, 3, 1),
        byte_fallback=bool(_number(trainer, 35, 0)),
        space_as_suffix=bool(_number(trainer, 24, 0)),
        charsmap=_bytes(normalizer, 2),
        add_dummy_prefix=bool(_number(normalizer, 3, 1)),
        remove_extra_whitespaces=bool(_number(normalizer, 4, 1)),
        escape_whitespaces=bool(_number(normalizer, 5, 1)),
    )


def _piece(fields: dict[int, Value]) -> Piece:
    (score,) = struct.unpack("<f", fields.get(2, bytes(4)))  # type: ignore[arg-type]
    return Piece(_bytes(fields, 1).decode(), score, PieceType(_number(fields, 3, PieceType.NORMAL)))


def _number(fields: dict[int, Value], number: int, default: int) -> int:
    return int(fields.get(number, default))


def _bytes(fields: dict[int, Value], number: int) -> bytes:
    value = fields.get(number, b"")
    if not isinstance(value, bytes):
        raise TypeError(f"field {number} is a number")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """The (number, value) pairs of one message; fixed-width values stay bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value, at = _varint(data, at)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(data, at)
            case 5:
                size = 4
            case wire_type:
                raise ValueError(f"wire type {wire_type} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"cut off at byte {len(data)}")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
