"""SentencePiece model -> fast tokenizer files with the same ids for every text, and ChatGLM2's chat template.

Text never becomes a special token. Their names begin with a noncharacter and a space, and only a text that is exactly
such a name, or that begins with PREFIX (what the chat template writes), is read as special.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors

from chatglm2.checkpoint.sentencepiece_model import BPE, Piece, PieceType, SentencePieceModel, read_sentencepiece
from chatglm2.detokenizer import BYTE_MARK, MARK, SPACE
from chatglm2.errors import CheckpointError

SPACE_IN_DECODER = f"\ufdd1{SPACE}"  # keeps a space apart from a SPACE character spelled in bytes
PRIVATE = re.compile(f"[\ufdd0\ufdd1{BYTE_MARK}]")
RESERVED = ("<unk>", "<s>", "</s>")  # ids 0, 1, 2
APPENDED = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")  # ids after the model's own pieces
PREFIX = "\ufdd0[gMASK] sop\ufdd0"  # at the very beginning of a text: the two ids every sequence starts with

CHAT_TEMPLATE = (
    "{{- '" + PREFIX + "' }}"
    "{%- set system = messages[:1] | selectattr('role', 'equalto', 'system') | list %}"
    "{%- for message in system %}{{- message['content'] + '\\n\\n' }}{%- endfor %}"
    "{%- for message in messages[system | length:] %}"
    "{%- if message['role'] != ('assistant' if loop.index0 % 2 else 'user') %}"
    "{{- raise_exception('messages must be an optional system message, then user and assistant in turn; found '"
    " + message['role'] + ' at position ' + (loop.index0 + system | length) | string) }}"
    "{%- endif %}"
    "{%- if loop.index0 % 2 == 0 %}"
    "{%- if loop.index0 %}{{- '\\n\\n' }}{%- endif %}"
    "{{- '[Round ' + (loop.index0 // 2 + 1) | string + ']\\n\\n问：' + message['content'] + '\\n\\n答：' }}"
    "{%- else %}{{- message['content'] }}{%- endif %}"
    "{%- endfor %}"
)


def write_tokenizer(model_file: Path, destination: Path, *, max_length: int) -> int:
    """Writes tokenizer.json and tokenizer_config.json; returns the number of ids, special tokens included.

    Raises CheckpointError when the model is not of ChatGLM2's kind, or the result differs from SentencePiece.
    """
    model = read_sentencepiece(model_file)
    _refuse_other_kinds(model, model_file)
    reference = _sentencepiece(model_file)
    tokenizer = _fast_tokenizer(model.pieces)
    _refuse_differences(tokenizer, reference, model_file)
    tokenizer.save(str(destination / "tokenizer.json"))
    text = json.dumps(_config(max_length), ensure_ascii=True, indent=2)
    (destination / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    return int(tokenizer.get_vocab_size())


def _refuse_other_kinds(model: SentencePieceModel, path: Path) -> None:
    types = {piece.type for piece in model.pieces}
    bytes_found = [piece.text for piece in model.pieces if piece.type == PieceType.BYTE]
    expectations = {
        "is not a BPE model": model.model_type != BPE,
        "has no byte fallback": not model.byte_fallback or set(bytes_found) != {f"<0x{i:02X}>" for i in range(256)},
        "adds no space before a text": not model.add_dummy_prefix,
        "removes repeated spaces": model.remove_extra_whitespaces,
        "keeps spaces unescaped or puts them at the end of words": not model.escape_whitespaces
        or model.space_as_suffix,
        "rewrites characters (a normalization table)": bool(model.charsmap),
        f"does not start with {', '.join(RESERVED)}": tuple(piece.text for piece in model.pieces[:3]) != RESERVED,
        "has user-defined or unused pieces": bool(types & {PieceType.USER_DEFINED, PieceType.UNUSED}),
        "has noncharacters in its pieces": any(PRIVATE.search(piece.text) for piece in model.pieces),
    }
    for found, wrong in expectations.items():
        if wrong:
            raise CheckpointError(f"{path}: {found}; use the tokenizer.model of a ChatGLM2 checkpoint")


def _fast_tokenizer(pieces: list[Piece]) -> Tokenizer:
    vocabulary = {name: i for i, name in enumerate(_names(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=_merges(pieces, vocabulary), byte_fallback=True))
    tokenizer.normalizer = _normalizer()
    tokenizer.decoder = _decoder()
    tokenizer.add_special_tokens([AddedToken(MARK + name, normalized=True) for name in RESERVED + APPENDED])
    ids = {name: tokenizer.token_to_id(MARK + name) for name in ("[gMASK]", "sop", "</s>")}
    first, second, end = (MARK + name for name in ids)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[first, second, "$A"],
        pair=[first, second, "$A", "$B", end],
        special_tokens=[(MARK + name, i) for name, i in ids.items()],
    )
    return tokenizer


def _names(pieces: list[Piece]) -> Iterator[str]:
    """The name of each id in the fast tokenizer.

    An ASCII byte is named by its character, which keeps it out of the decoder's byte runs: `tokenizers` replaces a
    whole run when one byte of it is broken. Where the character is also a piece, BYTE_MARK tells them apart.
    """
    ordinary = {piece.text for piece in pieces if piece.type == PieceType.NORMAL}
    for piece in pieces:
        if piece.type == PieceType.BYTE and (byte := int(piece.text[3:5], 16)) < 0x80:
            yield BYTE_MARK + chr(byte) if chr(byte) in ordinary else chr(byte)
        else:
            yield piece.text if piece.type in (PieceType.NORMAL, PieceType.BYTE) else MARK + piece.text


def _merges(pieces: list[Piece], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, best first: SentencePiece merges by the result's score."""
    ordinary = [piece for piece in pieces if piece.type == PieceType.NORMAL]
    ordered = sorted(ordinary, key=lambda piece: -piece.score)  # stable: equal scores stay in the order of their ids
    return [
        (text[:cut], text[cut:])
        for text in (piece.text for piece in ordered)
        for cut in range(1, len(text))
        if text[:cut] in vocabulary and text[cut:] in vocabulary
    ]


def _normalizer() -> normalizers.Normalizer:
    """SentencePiece's spaces; then a special name, or PREFIX, gets the real space back that makes it special.

    A special name comes out as it went in: `tokenizers` skips only those special tokens when it decodes.
    """
    names = "|".join(re.escape(name) for name in RESERVED + APPENDED)
    prefix = re.escape(PREFIX.replace(" ", SPACE))
    mark = MARK.replace(" ", SPACE)
    return normalizers.Sequence(
        [
            normalizers.Replace(" ", SPACE),
            normalizers.Prepend(SPACE),
            normalizers.Replace(Regex(rf"\A{SPACE}{prefix}"), f"{MARK}[gMASK]{MARK}sop{SPACE}"),
            normalizers.Replace(Regex(rf"\A{SPACE}{mark}(?=(?:{names})\z)"), MARK),
        ]
    )


def _decoder() -> decoders.Decoder:
    return decoders.Sequence(
        [
            decoders.Replace(Regex(rf"\A(?:{MARK}|{BYTE_MARK})"), ""),
            decoders.Replace(SPACE, SPACE_IN_DECODER),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Replace(Regex(rf"\A{SPACE_IN_DECODER}"), ""),
            decoders.Replace(SPACE_IN_DECODER, " "),
        ]
    )


def _sentencepiece(path: Path) -> SentencePieceProcessor:
    try:
        return SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: SentencePiece cannot read it ({reason}); download it again") from error


def _refuse_differences(tokenizer: Tokenizer, reference: SentencePieceProcessor, path: Path) -> None:
    """Encodes every piece, alone and among its neighbours, with SentencePiece too."""
    surfaces = [reference.id_to_piece(i).replace(SPACE, " ") for i in range(len(reference))]
    texts = surfaces + ["".join(surfaces[i : i + 9]) for i in range(0, len(surfaces), 9)]
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    for text, ours, theirs in zip(texts, encoded, reference.encode(texts), strict=True):
        if ours.ids != theirs:
            raise CheckpointError(
                f"{path}: {text!r} would get the ids {ours.ids} instead of {theirs}; "
                "this SentencePiece model cannot be converted exactly"
            )


def _config(max_length: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": MARK + "</s>",
        "pad_token": MARK + "<unk>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_length,
        "chat_template": CHAT_TEMPLATE,
    }
