"""The chat weights on their way: hub or folder -> native folder here -> S3 prefix.

The prefix of a hub model is known before the download, from its id and pinned revision; that of a folder comes from
its content. Conversion is the chat package's own command, run as a process.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy import upload
from deploy.aws import Aws
from deploy.errors import ConfigError, DeployError
from deploy.journal import Journal
from deploy.names import Names
from deploy.progress import say
from deploy.settings import Settings, Weights

RECORD = "conversion.json"  # of where a folder was converted; it differs between machines
MARK = "config.json"  # sent last: where it is, all is
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Source:
    """Where the weights of the settings are, or will be, on this machine."""

    original: Path | None
    """The folder as it came; None while it is not downloaded."""
    native: Path
    """The folder to upload, which may not be there yet."""

    @property
    def ready(self) -> bool:
        """Whether there is something to upload."""
        return (self.native / MARK).is_file()


def in_s3(weights: Weights) -> bool:
    """Whether they are in S3 already, in a place the settings name."""
    return weights.model.startswith("s3://")


def download(settings: Settings, journal: Journal) -> Path | None:
    """The folder of the pinned revision, fetched from the hub where it is not here; None after a dry run."""
    weights = settings.weights
    if in_s3(weights):
        raise ConfigError(f"weights.model is {weights.model}: in S3 already, there is nothing to download")
    if here := _local(weights):
        return here
    if not COMMIT.fullmatch(weights.revision):
        raise ConfigError(f"weights.revision: {weights.revision!r} is no commit of 40 hexadecimal digits; pin one")
    if there := _snapshot(weights, local_files_only=True):
        say(f"{weights.model} at {weights.revision[:12]} is downloaded already")
        return there
    folder = None if journal.dry_run else _snapshot(weights, local_files_only=False)
    journal.note(download={"model": weights.model, "revision": weights.revision, "endpoint": weights.hub_endpoint})
    return folder


def _local(weights: Weights) -> Path | None:
    folder = Path(weights.model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if folder.is_absolute() or weights.model.startswith((".", "~")):
        raise ConfigError(f"weights.model: no folder at {folder}; name an existing one, a hub id or s3://bucket/prefix")
    return None


def _snapshot(weights: Weights, *, local_files_only: bool) -> Path | None:
    if not os.environ.get("HF_ENDPOINT"):  # an empty one is an address to huggingface_hub, which reads it once
        os.environ.pop("HF_ENDPOINT", None)
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only where a hub is used
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415

    try:
        folder = snapshot_download(
            weights.model,
            revision=weights.revision,
            endpoint=weights.hub_endpoint or None,
            ignore_patterns=["*.py"],
            local_files_only=local_files_only,
        )
    except (LocalEntryNotFoundError, OSError, ValueError) as error:
        if local_files_only:
            return None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DeployError(
            f"{weights.model} could not be downloaded: {reason}; run it again to go on, or name a mirror: "
            "--set weights.hub_endpoint=ADDRESS"
        ) from error
    return Path(folder)


def locate(settings: Settings) -> Source:
    """Where the weights are, without fetching or converting anything."""
    weights = settings.weights
    original = _local(weights) or _snapshot(weights, local_files_only=True)
    if original and not _is_original(original):
        return Source(original, original)
    slug = _slug(weights) if original is None or not _local(weights) else _folder_slug(original)
    return Source(original, weights.cache_dir.expanduser() / slug)


def convert(settings: Settings, journal: Journal) -> Path:
    """The native folder, converted from original ChatGLM2 files where need be."""
    source = locate(settings)
    if source.original == source.native:
        say(f"{source.native} needs no conversion")
        return source.native
    if source.original is None and not journal.dry_run:
        raise ConfigError("the weights are not downloaded; run: python -m deploy weights download")
    if source.original and source.ready:
        if journal.dry_run or _local(settings.weights) is None:  # a pinned revision never changes
            say(f"{source.native} is converted already")
            return source.native
        return _run_convert(source.original, source.native, Journal())  # quick where the folder did not change
    return _run_convert(source.original or Path("<download>"), source.native, journal)


def _run_convert(original: Path, native: Path, journal: Journal) -> Path:
    journal.run([sys.executable, "-m", "chatglm2", "convert", str(original), str(native)], os.environ)
    return native


def _is_original(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == "chatglm")
    except (OSError, ValueError):
        raise ConfigError(f"weights.model: {folder} holds no readable config.json, so it is no model folder") from None


def _slug(weights: Weights) -> str:
    return f"{weights.model.replace('/', '--')}-{weights.revision[:12]}"


def _folder_slug(folder: Path) -> str:
    return f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


def files(names: Names, folder: Path) -> list[upload.File]:
    """What to send of a native folder, with keys and checksums."""
    paths = [path for path in upload.walk(folder) if path.name != RECORD]
    found = upload.checksums({path.relative_to(folder).as_posix(): path for path in paths})
    prefix = _prefix(names, folder, found)
    return [upload.File(file.path, prefix + file.key, file.size, file.sha256) for file in found]


def _prefix(names: Names, folder: Path, found: Sequence[upload.File]) -> str:
    weights = names.settings.weights
    if _local(weights) is None:
        return f"{names.prefix}weights/{_slug(weights)}/"
    return f"{names.prefix}weights/{folder.name}-{upload.content(found)}/"


def uri(names: Names) -> str:
    """The S3 prefix of the weights, without sending anything. Raises ConfigError where it cannot be known yet."""
    weights = names.settings.weights
    if in_s3(weights):
        return weights.model.rstrip("/") + "/"
    if _local(weights) is None:
        return f"s3://{names.bucket}/{names.prefix}weights/{_slug(weights)}/"
    source = locate(names.settings)
    if not source.ready:
        raise ConfigError("weights.model is not converted yet; run: python -m deploy weights convert")
    return f"s3://{names.bucket}/{upload.prefix(files(names, source.native), MARK)}"


def send(aws: Aws, names: Names) -> str:
    """Bring the native folder to S3; returns its prefix.

    A dry run before the conversion only says that it would; what comes from a folder here has a placeholder for the
    checksum then.
    """
    if in_s3(names.settings.weights):
        return uri(names)
    source = locate(names.settings)
    if source.ready:
        found = files(names, source.native)
        upload.upload_marked(aws, names, found, MARK)
        return f"s3://{names.bucket}/{upload.prefix(found, MARK)}"
    if not aws.journal.dry_run:
        raise ConfigError("the weights are not converted yet; run: python -m deploy weights convert")
    say("the requests of the upload depend on files that are not here yet: they can be listed after `weights convert`")
    if _local(names.settings.weights):
        return f"s3://{names.bucket}/{names.prefix}weights/<content>/"
    return uri(names)
