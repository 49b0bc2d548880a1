"""The user's own text to sentences: UTF-8, one sentence or paragraph a line. Whatever else it is, is refused by name.

Sentences are distinct but for case and spaces, in the order of the file.
"""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from denoiser.errors import CorpusError, InvalidInputError, MediaTypeError

FEWEST, MOST = 120, 60_000
TRAIN_AND_MEASURE = "to train and to measure the result"
LONGEST_LINE = 100_000
_SHORTEST, _LONGEST = 8, 1000
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
# Before a letter or digit, perhaps after dashes or the like. Only single spaces: in time linear in a line's length.
_SENTENCE_END = re.compile(r"(?<=[.!?।؟])[\"')\]]* (?=(?:[^\w\s]+ ){0,3}[^\w\s]*([^\W_]))|(?<=[。！？])")


def decode(content: bytes) -> str:
    """The text of a file. Raises InvalidInputError for an empty one, MediaTypeError for one that is not UTF-8 text."""
    if not content.strip():
        raise InvalidInputError("the file is empty; send UTF-8 text, one sentence or paragraph a line")
    if content.startswith(_UTF16):
        raise MediaTypeError("the file is UTF-16; save it as UTF-8 and send it again")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MediaTypeError(f"the file is not UTF-8 text (byte {error.start}); save it as UTF-8 text") from error
    if found := _CONTROL.search(text):
        raise MediaTypeError(
            f"the file is not text: character {found.start()} is the control code {ord(found.group()):#04x}"
        )
    return text


def find_sentences(text: str, fewest: int = FEWEST, use: str = TRAIN_AND_MEASURE) -> list[str]:
    """At least `fewest` distinct sentences of 8 to 1,000 characters, as `use` needs them. Raises InvalidInputError."""
    kept: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > LONGEST_LINE:
            raise InvalidInputError(
                f"line {number} has {len(line)} characters; at most {LONGEST_LINE} are allowed: "
                "put one sentence or paragraph on a line"
            )
        for sentence in _split(" ".join(line.split())):
            if _SHORTEST <= len(sentence) <= _LONGEST and any(c.isalpha() for c in sentence):
                kept.setdefault(sentence.casefold(), sentence)
    if len(kept) < fewest:
        raise InvalidInputError(
            f"found {len(kept)} different sentences of {_SHORTEST} to {_LONGEST} characters; "
            f"at least {fewest} are needed {use}: send more text"
        )
    return list(kept.values())


def _split(line: str) -> Iterator[str]:
    """A line's sentences, those that are too long in parts. None begins with a letter that has a capital form."""
    start = 0
    for end in (*_SENTENCE_END.finditer(line), None):
        if end is None or not end[1] or end[1] == end[1].title():
            sentence = line[start : end and end.start()].strip()
            yield from (
                [sentence] if len(sentence) <= _LONGEST else textwrap.wrap(sentence, _LONGEST, break_long_words=False)
            )
            start = end.end() if end else start


def read_sentences(path: Path, fewest: int, use: str) -> list[str]:
    """The sentences of a file, as `find_sentences`. Raises CorpusError for one that cannot be read or used."""
    try:
        return find_sentences(decode(path.read_bytes()), fewest, use)
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}") from error
    except (InvalidInputError, MediaTypeError) as error:
        raise CorpusError(f"{path}: {error}") from error
