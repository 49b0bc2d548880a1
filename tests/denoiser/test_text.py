"""Text of packages and of users: how it is fetched, read, and parted into sentences."""

import bz2
import json
import re
import signal
import struct
import subprocess
import sys
import zipfile
import zlib
from gettext import GNUTranslations
from itertools import chain
from pathlib import Path

import pytest

from denoiser.errors import CorpusError
from denoiser.text import corpus as corpora
from denoiser.text.corpus import Corpus, fetch, from_files, from_packages, with_crossed
from denoiser.text.plain import find_sentences
from denoiser.text.prose import read_text, split_paragraphs, split_sentences
from denoiser.text.sources import TRAINING, Kind, Source
from tests.denoiser.texts import sentences as made_up
from tests.servers import children, wait_until_ended

SAID = 'She said "no" and left.'


def test_sentences_are_found_in_prose_and_nothing_else() -> None:
    text = "This is the first sentence. Here comes\n  another one!\n\nx = 3; y[4] += 7 {}\n"
    found = [s for p in split_paragraphs(text) for s in split_sentences(p)]
    assert found == ["This is the first sentence.", "Here comes another one!"]
    assert list(split_sentences("short\n0 1 2 3 4 5 6 7 8 9 10 11 12")) == []
    assert list(split_sentences("A well @-@ kept village of 1 @,@ 200 people by the northern sea .")) == [
        "A well-kept village of 1,200 people by the northern sea ."
    ]


def test_strings_are_read_from_r_data(tmp_path: Path) -> None:
    lines = ("It was a dark night.", "Nobody saw the ship leave.")
    stored = b"".join(b"\x00\x04\x00\x09" + len(x).to_bytes(4, "big") + x.encode() for x in lines)
    path = tmp_path / "novels.rdb"
    path.write_bytes(b"\x00\x00\x01\x00" + zlib.compress(b"X\n" + stored))
    assert read_text(path) == "\n".join(lines)


def test_translations_are_read_from_a_message_catalogue(tmp_path: Path) -> None:
    translated = {
        "It is a dark night.": "Es ist eine dunkle Nacht.",
        "Nobody sees the ship.": "Niemand sieht das Schiff.",
    }
    path = tmp_path / "game.mo"
    path.write_bytes(catalogue(translated))
    with path.open("rb") as file:
        known = GNUTranslations(file)
    assert [known.gettext(message) for message in translated] == list(translated.values())
    assert [p for p in split_paragraphs(read_text(path)) if p] == list(translated.values())


def catalogue(translated: dict[str, str]) -> bytes:
    """Of GNU gettext: a header, a table of lengths and places for messages, one for translations, and the strings."""
    kinds = [[text.encode() for text in texts] for texts in (translated, translated.values())]
    tables, strings = b"", b""
    first = 28 + 16 * len(translated)
    for text in chain(*kinds):
        tables += struct.pack("<II", len(text), first + len(strings))
        strings += text + b"\0"
    header = struct.pack("<IIIIIII", 0x950412DE, 0, len(translated), 28, 28 + 8 * len(translated), 0, first)
    return header + tables + strings


def test_text_files_give_each_sentence_once_in_an_order_of_the_seed(tmp_path: Path) -> None:
    path, lines = tmp_path / "text.txt", made_up(150).splitlines()
    path.write_text("\n".join([*lines, *lines[:30]]))
    corpus = from_files([path], seed=1)
    assert sorted(corpus.learnt + corpus.evaluation["in-domain"]) == sorted(lines)
    assert from_files([path], seed=1) == corpus
    assert from_files([path], seed=2).learnt != corpus.learnt
    assert (corpus.sources[0]["file"], corpus.sources[0]["sentences"]) == ("text.txt", "150")


def test_crossed_texts_begin_as_one_sentence_and_end_as_another_and_none_of_them_is_held_out() -> None:
    sentences = [" ".join(f"{word}{number}" for word in "abcde") for number in range(48)]
    corpus = with_crossed(Corpus(sentences[4:], {"in-domain": sentences[:4]}, []), 500, seed=1)
    openings = {tuple(s.split()[:count]) for s in corpus.learnt for count in (2, 3, 4)}
    closings = {tuple(s.split()[-count:]) for s in corpus.learnt for count in (1, 2, 3)}
    for words in map(str.split, corpus.crossed):
        assert any(tuple(words[:cut]) in openings and tuple(words[cut:]) in closings for cut in (2, 3, 4))
    assert len(set(corpus.crossed)) > 450
    assert with_crossed(corpus, 500, seed=1) == corpus
    assert with_crossed(corpus, 500, seed=2) != corpus


def test_text_without_spaces_crosses_to_whole_sentences() -> None:
    sentences = ["今天的天气很好，我们去公园。", "请问去火车站怎么走才最快？"]
    crossed = with_crossed(Corpus(sentences, {}, []), 50, seed=1).crossed
    assert all(text.split()[0] in sentences and text.split()[-1] in sentences for text in crossed)


@pytest.mark.parametrize(
    ("content", "complaint"), [(None, "cannot read"), (b"\xff\xfe\x00", "UTF-16"), (b"caf\xe9", "not UTF-8")]
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorpusError, match=complaint):
        from_files([path], seed=0)


def test_text_files_may_be_in_any_language(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    of_each = ("今天的天气很好，我们去公园{}。", "请问去火车站怎么走{}？", "Die Katze {} schläft unter dem Tisch.")
    path.write_text("\n".join(text.format(number) for text in of_each for number in range(50)))
    corpus = from_files([path, path], seed=1)
    assert len(corpus.learnt + corpus.evaluation["in-domain"]) == 150


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    for name in ("some.txt", "more.txt"):
        (tmp_path / name).write_text(made_up(119))
    with pytest.raises(CorpusError, match="found 119 different sentences; at least 120 are needed to train"):
        from_files([tmp_path / "some.txt", tmp_path / "more.txt"], seed=0)


def test_of_few_sentences_enough_are_held_out_to_measure_on_though_some_are_too_alike(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    for count, held_out in ((150, 50), (1200, 300), (4000, 400)):
        path.write_text("\n".join(f"This is sentence number {number}." for number in range(count)))
        corpus = from_files([path], seed=1)
        assert (len(corpus.learnt), len(corpus.evaluation["in-domain"])) == (count - held_out, held_out)


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ('He said: "Go home." - Then we left, e.g. to town.', ['He said: "Go home.', "- Then we left, e.g. to town."]),
        (
            "C'est bien fini. Écoute-moi bien. À demain, Zoë.",
            ["C'est bien fini.", "Écoute-moi bien.", "À demain, Zoë."],
        ),
        ("Сегодня идёт дождь. Как дела, сосед? 7 часов.", ["Сегодня идёт дождь.", "Как дела, сосед?", "7 часов."]),
        ("Wait for it... - - Then we all left.", ["Wait for it...", "- - Then we all left."]),
        ("დღეს კარგი ამინდია. როგორ ხართ მეზობელო?", ["დღეს კარგი ამინდია.", "როგორ ხართ მეზობელო?"]),
        ("आज मौसम अच्छा है। हम पार्क जाते हैं।", ["आज मौसम अच्छा है।", "हम पार्क जाते हैं।"]),
        ("كيف حالك اليوم؟ أنا بخير شكرا لك.", ["كيف حالك اليوم؟", "أنا بخير شكرا لك."]),
        ("我们一起去公园玩。 我们一起去公园玩。 一起去公园。", ["我们一起去公园玩。"]),
        ("今天天气非常好。我们一起去公园！", ["今天天气非常好。", "我们一起去公园！"]),
        ("word " * 300, [("word " * 200).strip(), ("word " * 100).strip()]),
        ("Ends. " + ". " * 40_000, ["Ends." + " ." * 497]),
    ],
)
def test_a_paragraph_of_any_script_is_parted_into_its_sentences(line: str, sentences: list[str]) -> None:
    assert find_sentences(line, 1)[: len(sentences)] == sentences


def test_quoted_strings_are_read_from_json_and_compressed_csv(tmp_path: Path) -> None:
    for name in ("said.json", "said.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": f"{SAID}\nIt wasn’t late — yet."}))
        found = re.findall(r'"text": "([^"]+)"', read_text(tmp_path / name))
        sentences = [s for p in split_paragraphs(found[0]) for s in split_sentences(p)]
        assert sentences == ["She said 'no' and left.", "It wasn't late - yet."]

    row = 'id,text\n1,"{}"\n'.format(SAID.replace('"', '""'))
    (tmp_path / "said.csv.bz2").write_bytes(bz2.compress(row.encode()))
    with zipfile.ZipFile(tmp_path / "said.zip", "w") as archive:
        archive.writestr("said.csv", row)
    for name in ("said.csv.bz2", "said.zip"):
        assert re.findall(r',"([^"]+)"', read_text(tmp_path / name)) == ["She said 'no' and left."]


def test_packages_give_unfamiliar_text_that_does_not_depend_on_how_much_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("red", "green", "blue", "small", "large", "old", "new", "warm", "cold", "quiet")
    for package, verb in (("manual", "describes"), ("verse", "praises"), ("novel", "remembers"), ("letters", "misses")):
        folder = tmp_path / package
        folder.mkdir()
        (folder / "VERSION").write_text("1.0")
        lines = [f"The {a} book {verb} the {b} house." for a in words for b in words] + ["All of them share this line."]
        (folder / "text.txt").write_text("\n\n".join(lines))
    for package, verb in (("handbuch", "beschreibt"), ("gedichte", "besingt")):
        folder = tmp_path / package
        folder.mkdir()
        (folder / "VERSION").write_text("1.0")
        (folder / "text.txt").write_text("\n\n".join(f"Das Buch über {a} {verb} größere Häuser." for a in words))
    foreign = Source("handbuch", "*.txt", "free", kind="other languages")
    for name, sources in (
        ("TRAINING", (foreign, Source("manual", "*.txt", "free", weight=2))),
        (
            "DEVELOPMENT",
            (
                Source("verse", "*.txt", "free", domain="poems"),
                Source("gedichte", "*.txt", "free", domain="Gedichte", weight=0.02, kind="other languages"),
            ),
        ),
        ("TEST", tuple(Source(package, "*.txt", "free", domain="prose") for package in ("novel", "letters"))),
    ):
        monkeypatch.setattr(corpora, name, sources)
    monkeypatch.setattr(corpora, "SET_SIZE", 150)
    monkeypatch.setattr(corpora, "_WHOLE_AT", 10)
    few, more = (from_packages(tmp_path, count, 1, lambda _: None) for count in (5, 20))
    assert [(len(c.learnt), len(c.evaluation["in-domain"])) for c in (few, more)] == [(9, 1), (36, 4)]
    assert few.evaluation["prose"] == more.evaluation["prose"]
    assert [len(c.development["poems"]) for c in (few, more)] == [75, 101]
    assert few.development["poems"] == more.development["poems"][:75]
    assert len(few.evaluation["prose"]) == 150
    kind: Kind = "other languages"
    found = [(len(c.foreign[kind]), len(c.foreign_development[kind]["Gedichte"])) for c in (few, more)]
    assert found == [(5, 2), (10, 3)]
    assert all(map(str.isascii, more.learnt))
    assert [source["sentences"] for source in few.sources] == ["75", "100", "50", "10", "2", "5"]
    assert few.sources[-1]["use"] == "other languages"
    assert not any("share this line" in sentence for sentence in [*more.learnt, *more.evaluation["prose"]])
    assert from_packages(tmp_path, 5, 1, lambda _: None) == few


def test_a_package_without_its_text_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "manual").mkdir()
    for name in ("TRAINING", "DEVELOPMENT", "TEST"):
        monkeypatch.setattr(corpora, name, (Source("manual", "*.txt", "free"),))
    with pytest.raises(CorpusError, match="package manual holds no"):
        from_packages(tmp_path, 5, 1, lambda _: None)


def test_a_python_package_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = next(source for source in TRAINING if source.package == "chatterbot-corpus")
    folder = fetch(source, tmp_path)
    assert list(folder.glob(source.files))
    assert (folder / "VERSION").read_text() == source.wheel
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert fetch(source, tmp_path) == folder
    assert [path.name for path in tmp_path.iterdir()] == [source.package]


HOLDING = """
import time
from denoiser.text.readers import reading_processes

with reading_processes() as pool:
    print(pool.submit(abs, -1).result(), flush=True)
    pool.submit(time.sleep, 600).result()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_reading_processes_end_with_the_one_that_started_them(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDING], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        readers = children(process.pid)
        assert readers
        process.send_signal(number)
        wait_until_ended(readers)
