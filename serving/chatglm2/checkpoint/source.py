"""Finds the model that a setting names: a local folder, an S3 prefix, a repository on a model hub, or where nothing is
named, what SageMaker mounted, else the embedded default."""

import hashlib
from pathlib import Path

from chatglm2.checkpoint import hub, s3
from chatglm2.checkpoint.embedded import embedded_model
from chatglm2.checkpoint.original import is_original
from chatglm2.errors import SetupError


def resolve(model: str, revision: str | None, cache: Path, mounted: Path) -> Path:
    """Folder of the native checkpoint that `model` names; fetched or converted under `cache` if need be.

    An empty `model` is the one in folder `mounted`, or the embedded one. Raises SetupError where there is none.
    """
    if not model:
        return _native(mounted, cache) if (mounted / "config.json").is_file() else embedded_model(cache)
    if model.startswith("s3://"):
        return _native(s3.fetch(model, cache), cache)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _native(folder, cache)
    if folder.is_absolute() or model.startswith((".", "~")):
        raise SetupError(f"no model folder at {folder}; name an existing one, a hub id, or leave the setting empty")
    return _native(hub.fetch(model, revision, cache), cache)


def _native(folder: Path, cache: Path) -> Path:
    """`folder` itself, or for original ChatGLM2 files what they are converted to, under `cache`."""
    if not (folder / "config.json").is_file():
        raise SetupError(f"{folder} holds no config.json, so it is no model folder; name the folder of a checkpoint")
    if not is_original(folder):
        return folder
    from chatglm2.checkpoint.convert import convert  # noqa: PLC0415 - imports torch

    path = str(folder.resolve())
    converted = cache / f"{folder.name}-{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    convert(folder, converted)
    return converted
