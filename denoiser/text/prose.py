"""Files of several formats to paragraphs and sentences: HTML, manual pages, SWORD modules, R data, message catalogues,
CSV, JSON, plain.

Sentences are prose of 15 to 400 characters, in English or in any language; code, tables and headings are left out, or
taken line by line.
"""

import bz2
import gzip
import re
import string
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

_SKIPPED = {"script", "style", "pre", "title", "nav", "table"}
_INLINE = {
    "a",
    "b",
    "i",
    "em",
    "strong",
    "span",
    "code",
    "kbd",
    "samp",
    "tt",
    "q",
    "sub",
    "sup",
    "cite",
    "var",
    "app",
    "gui",
    "guiseq",
    "link",
}
_MARKUP = (".html", ".page", ".xml")
# How a quotation mark is written inside a quoted string.
_QUOTES = {".json": '\\"', ".jsonl": '\\"', ".py": '\\"', ".csv": '""'}
_TYPOGRAPHY = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": " - ", "…": "...", "\xa0": " "})
_WIKITEXT_MARK = re.compile(r" @([-,.])@ ")  # a hyphen, or a comma or point within a number
_R_STRING = b"\x00\x04\x00\x09"  # the type of a character string in R's serialisation; its length follows
_SENTENCE_END = re.compile(r"(?<=[.!?;])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")
_FOREIGN_SENTENCE_END = re.compile(r"(?<=[.!?;])[\"')\]]*\s+(?=\W*[^\Wa-z])|(?<=[。！？；])")
_LETTERS = f"{string.ascii_letters} ".encode()
SHORTEST, LONGEST = 15, 400
_MOSTLY = 0.85


class _Prose(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self._skipping = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._skipping += tag in _SKIPPED
        if tag not in _INLINE:
            self.pieces.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        self._skipping = max(0, self._skipping - (tag in _SKIPPED))
        if tag not in _INLINE:
            self.pieces.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self.pieces.append(data)


def _strip_markup(text: str) -> str:
    parser = _Prose()
    parser.feed(text)
    parser.close()
    return "".join(parser.pieces)


def _strip_roff(text: str) -> str:
    text = re.sub(r"(?m)^\.(B|I|BR|IR|RB|RI|BI|IB) ", "", text)
    text = re.sub(r"(?m)^['.].*$", "\n", text)
    return re.sub(r"\\f.|\\\(\w\w|\\[&,/|]|\\", "", text)


def _decompress_blocks(data: bytes) -> bytes:
    """The zlib streams of a file, without the few bytes between them (SWORD text modules, R data)."""
    pieces, start = [], data.find(b"\x78\x9c")
    while start >= 0:
        stream = zlib.decompressobj()
        pieces.append(stream.decompress(data[start:]))
        start = data.find(b"\x78\x9c", len(data) - len(stream.unused_data))
    return b"".join(pieces)


def _lines_of_r_data(data: bytes) -> str:
    """The character strings in serialised R data, each a line."""
    lines, start = [], data.find(_R_STRING)
    while start >= 0:
        start += len(_R_STRING)
        end = start + 4 + int.from_bytes(data[start : start + 4], "big")
        lines.append(data[start + 4 : end])
        start = data.find(_R_STRING, end)
    return b"\n".join(lines).decode(errors="replace")


def _translations(data: bytes) -> str:
    """The translations in a message catalogue of GNU gettext, each a paragraph; they follow the messages themselves."""
    table = int.from_bytes(data[16:20], "little")
    start = int.from_bytes(data[table + 4 : table + 8], "little")
    return data[start:].replace(b"\0", b"\n\n").decode(errors="replace")


def _single_file(path: Path, data: bytes) -> tuple[bytes, str]:
    """What a .zip of one file, or a .bz2 file, holds, and its suffix."""
    if path.suffix == ".bz2":
        return bz2.decompress(data), Path(path.stem).suffix
    with zipfile.ZipFile(path) as archive:
        name = archive.namelist()[0]
        return archive.read(name), Path(name).suffix


def _unescape(text: str) -> str:
    units = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), text)
    text = units.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\\n", "\n\n").replace("\\t", " ")


def read_text(path: Path) -> str:
    """The text of a file without markup, decompressed; bytes that are not UTF-8 become U+FFFD.

    Quotation marks inside quoted strings of CSV and JSON become apostrophes, and JSON's escapes what they stand for.
    """
    data, suffix = path.read_bytes(), path.suffix
    if path.suffix == ".bzz":
        return _strip_markup(_decompress_blocks(data).decode(errors="replace"))
    if path.suffix == ".mo":
        return _translations(data)
    if path.suffix == ".rdb":
        return _lines_of_r_data(_decompress_blocks(data))
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    if path.suffix in (".zip", ".bz2"):
        data, suffix = _single_file(path, data)
    text = data.decode(errors="replace")
    if suffix in _QUOTES:
        return _unescape(text.replace(_QUOTES[suffix], "'"))
    if suffix in _MARKUP:
        return _strip_markup(text)
    return _strip_roff(text) if "/man/" in str(path) else text


def _is_english(sentence: str) -> bool:
    return (
        sentence.count(" ") >= 2
        and sentence.isascii()
        and len(sentence) - len(sentence.encode().translate(None, _LETTERS)) >= _MOSTLY * len(sentence)
    )


def _is_text(sentence: str) -> bool:
    """Whether it is mostly letters of any script, and the marks and spaces among them."""
    return sum(unicodedata.category(character)[0] in "LMZ" for character in sentence) >= _MOSTLY * len(sentence)


def split_paragraphs(text: str) -> list[str]:
    """Paragraphs are parted by blank lines, `%` lines or tabs."""
    return re.split(r"\n\s*\n|\n%+\n|\t", text)


def split_sentences(paragraph: str, *, english: bool = True) -> Iterator[str]:
    """The usable sentences of a paragraph: 15 to 400 characters, mostly letters; of English, three words or more."""
    end, usable = (_SENTENCE_END, _is_english) if english else (_FOREIGN_SENTENCE_END, _is_text)
    plain = re.sub(r"[{}*_|]|\[[^\]]*\]", "", _WIKITEXT_MARK.sub(r"\1", paragraph.translate(_TYPOGRAPHY)))
    for sentence in end.split(" ".join(plain.split())):
        if SHORTEST <= len(sentence) <= LONGEST and usable(sentence):
            yield sentence.strip()


def split_lines(paragraph: str) -> Iterator[str]:
    """The lines of 15 to 400 characters that are no English prose."""
    for line in map(str.strip, paragraph.splitlines()):
        if SHORTEST <= len(line) <= LONGEST and not _is_english(line):
            yield line
