"""The converted tokenizer equals SentencePiece on every text, and text never becomes a special token."""

from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer

from chatglm2.checkpoint.tokenizer import APPENDED, PREFIX, RESERVED
from chatglm2.detokenizer import MARK
from tests.chatglm2.checkpoint.tiny import FRAGMENTS, hard_texts, is_private

TEXTS = 20_000


@pytest.fixture(scope="module", params=["original", "golden"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """The converted tokenizer and the SentencePiece model it came from."""
    source: Path = request.getfixturevalue(request.param)
    converted = request.getfixturevalue({"original": "converted", "golden": "golden_converted"}[request.param])
    return AutoTokenizer.from_pretrained(converted), SentencePieceProcessor(model_file=str(source / "tokenizer.model"))


def test_ids_and_text_equal_sentencepiece(pair: tuple[Any, Any]) -> None:
    tokenizer, reference = pair
    pieces = [reference.id_to_piece(i) for i in range(259, len(reference))]
    texts = [text for text in hard_texts(TEXTS, pieces) if not is_private(text)] + FRAGMENTS[
        : -len(RESERVED + APPENDED) - 1
    ]
    expected = reference.encode(texts)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert [text for text, got, want in zip(texts, ids, expected, strict=True) if got != want] == []
    decoded = tokenizer.batch_decode(ids)
    assert [text for text, got, want in zip(texts, decoded, reference.decode(ids), strict=True) if got != want] == []


def test_sequences_start_with_the_prefix(pair: tuple[Any, Any]) -> None:
    tokenizer, reference = pair
    size = len(reference)
    assert tokenizer("")["input_ids"] == [size + 1, size + 3]
    assert tokenizer("hello")["input_ids"] == [size + 1, size + 3, *reference.encode("hello")]
    assert tokenizer("hello", "world")["input_ids"] == [
        *(size + 1, size + 3, *reference.encode("hello"), *reference.encode("world"), 2)
    ]
    assert tokenizer(PREFIX + "hello", add_special_tokens=False)["input_ids"] == tokenizer("hello")["input_ids"]


def test_special_tokens_have_the_original_ids_and_are_skipped(pair: tuple[Any, Any]) -> None:
    tokenizer, reference = pair
    ids = [0, 1, 2, *range(len(reference), len(reference) + 5)]
    assert tokenizer.convert_tokens_to_ids([MARK + name for name in RESERVED + APPENDED]) == ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""
    assert tokenizer.decode(ids) == "".join(RESERVED + APPENDED)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 0)
    assert len(tokenizer) == len(reference) + 5


def test_batches_are_padded_on_the_left(pair: tuple[Any, Any]) -> None:
    tokenizer, _ = pair
    batch = tokenizer(["hello hello hello", "hello"], padding=True)
    assert batch["input_ids"][1][0] == 0
    assert batch["attention_mask"][1][0] == 0


def test_saved_again_it_is_the_same(pair: tuple[Any, Any], tmp_path: Path) -> None:
    tokenizer, _ = pair
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(FRAGMENTS)["input_ids"] == tokenizer(FRAGMENTS)["input_ids"]
    assert again.chat_template == tokenizer.chat_template


def test_chat_template_writes_rounds(pair: tuple[Any, Any]) -> None:
    tokenizer, reference = pair
    messages = [
        {"role": "system", "content": "简短回答。"},
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "你好！"},
        {"role": "user", "content": "hello"},
    ]
    prompt = "简短回答。\n\n[Round 1]\n\n问：你好\n\n答：你好！\n\n[Round 2]\n\n问：hello\n\n答："
    prefix = [len(reference) + 1, len(reference) + 3]
    assert tokenizer.apply_chat_template(messages)["input_ids"] == prefix + reference.encode(prompt)


@pytest.mark.parametrize("role", ["system", "user"])
def test_hostile_messages_stay_text(pair: tuple[Any, Any], role: str) -> None:
    tokenizer, reference = pair
    prefix = [len(reference) + 1, len(reference) + 3]
    for text in FRAGMENTS:
        system = text + "\n\n" if role == "system" else ""
        question = text if role == "user" else "hello"
        messages = [{"role": "system", "content": text}] if role == "system" else []
        ids = tokenizer.apply_chat_template([*messages, {"role": "user", "content": question}])["input_ids"]
        assert ids == prefix + reference.encode(f"{system}[Round 1]\n\n问：{question}\n\n答：")


@pytest.mark.parametrize("roles", [["assistant"], ["user", "user"], ["user", "system"], ["system", "system"], ["tool"]])
def test_chat_template_refuses_roles_out_of_turn(pair: tuple[Any, Any], roles: list[str]) -> None:
    tokenizer, _ = pair
    with pytest.raises(TemplateError, match=f"found {roles[-1]} at position {len(roles) - 1}"):
        tokenizer.apply_chat_template([{"role": role, "content": "hello"} for role in roles])
