"""Token ids to text, one token at a time, as an answer is generated.

Joined pieces equal decoding the whole answer with special tokens skipped. No piece ends inside a character, and the
work per token does not grow with the answer.
"""

import codecs
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACE = "▁"  # what SentencePiece writes for a space inside a piece
BYTE_MARK = "\ufdd2"  # begins the name of an ASCII byte in converted tokenizers where the character is a piece as well
MARK = "\ufdd0 "  # begins the name of a special token in converted tokenizers; their text has no other space left
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class Detokenizer(Protocol):
    """The text of one answer; use a new one for every answer."""

    def push(self, token_id: int) -> str:
        """The text that became final with this token, often empty."""

    def finish(self) -> str:
        """The rest, with U+FFFD for bytes that never became a character."""


class TokenTexts:
    """What the tokens of one tokenizer say: one by one, and joined to answers. Tables are built once, here."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._pieces, self._errors = _pieces(tokenizer)

    def detokenizer(self) -> Detokenizer:
        """For a new answer."""
        if self._pieces is None:
            return TokenizerDetokenizer(self._tokenizer)
        return PieceDetokenizer(self._pieces, self._errors)

    def piece(self, token_id: int) -> bytes:
        """The UTF-8 bytes of a token by itself, perhaps part of a character; a special token's are its name."""
        piece = (self._pieces or {}).get(token_id)
        if isinstance(piece, bytes):
            return piece
        if piece is not None:
            return piece.replace(SPACE, " ").encode()
        text = str(self._tokenizer.decode([token_id])) if token_id < len(self._tokenizer) else ""
        return text.removeprefix(MARK).encode()


def _pieces(tokenizer: "PreTrainedTokenizerBase") -> tuple[Mapping[int, bytes | str] | None, str]:
    """Table and error handler for PieceDetokenizer, by the tokenizer's own decoder; None where it has no such table."""
    spec: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    if _is_sentencepiece(spec):
        return {i: _sentencepiece_piece(piece) for i, piece in _visible_pieces(tokenizer, spec).items()}, ONE_PER_BYTE
    if (spec.get("decoder") or {}).get("type") == "ByteLevel":
        alphabet = _byte_alphabet()
        return {
            i: _byte_level_piece(piece, alphabet) for i, piece in _visible_pieces(tokenizer, spec).items()
        }, "replace"
    return None, "replace"


class PieceDetokenizer:
    """Decodes by a table of pieces: `bytes` are parts of characters, `str` is text with SentencePiece's space mark.

    Ids that are not in the table (special tokens, padding of the vocabulary) add nothing.
    `errors` is the codec error handler for broken UTF-8.
    """

    def __init__(self, pieces: Mapping[int, bytes | str], errors: str) -> None:
        self._pieces = pieces
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors)
        self._at_start = True

    def push(self, token_id: int) -> str:
        piece = self._pieces.get(token_id)
        if piece is None:
            return ""
        at_start, self._at_start = self._at_start, False
        if isinstance(piece, bytes):
            return self._bytes.decode(piece)
        return self.finish() + (piece.removeprefix(SPACE) if at_start else piece).replace(SPACE, " ")

    def finish(self) -> str:
        return self._bytes.decode(b"", final=True)


class TokenizerDetokenizer:
    """Decodes the newest tokens with the tokenizer itself, for every tokenizer that has no table of pieces.

    Holds back text that ends in U+FFFD, because the next token may complete the character.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._context: list[int] = []  # tokens already given out, kept because spacing depends on the neighbour
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        if token_id in self._special:
            return ""
        self._pending.append(token_id)
        text = self._pending_text()
        return "" if not text or text.endswith("\ufffd") else self._give_out(text)

    def finish(self) -> str:
        return self._give_out(self._pending_text()) if self._pending else ""

    def _pending_text(self) -> str:
        return self._decode(self._context + self._pending)[len(self._decode(self._context)) :]

    def _give_out(self, text: str) -> str:
        self._context, self._pending = self._pending, []
        return text

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def _is_sentencepiece(spec: dict[str, Any]) -> bool:
    """BPE with byte fallback that writes a space mark before every text: a converted SentencePiece model."""
    normalizer = spec.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    byte_fallback = spec.get("model", {}).get("byte_fallback", False)
    return bool(byte_fallback) and any(step.get("prepend") == SPACE for step in steps)


def _visible_pieces(tokenizer: "PreTrainedTokenizerBase", spec: dict[str, Any]) -> dict[int, str]:
    special = {token["id"] for token in spec["added_tokens"] if token["special"]}
    return {i: piece for piece, i in tokenizer.get_vocab().items() if i not in special}


def _sentencepiece_piece(piece: str) -> bytes | str:
    byte = BYTE_PIECE.fullmatch(piece)
    return bytes.fromhex(byte[1]) if byte else piece.removeprefix(BYTE_MARK)


def _byte_level_piece(piece: str, alphabet: dict[str, int]) -> bytes:
    """A piece with a character outside the alphabet (an added token) stands for itself, as in `tokenizers`."""
    return bytes(alphabet[char] for char in piece) if alphabet.keys() >= set(piece) else piece.encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's visible character for each byte: printable Latin-1 is itself, the others follow from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _one_per_byte(error: UnicodeError) -> tuple[str, int]:
    """SentencePiece's replacement: one U+FFFD for each broken byte, where Python's "replace" merges some."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


ONE_PER_BYTE = "chatglm2.one_per_byte"
codecs.register_error(ONE_PER_BYTE, _one_per_byte)
