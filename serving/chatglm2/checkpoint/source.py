"""Finds the model a setting names: the embedded default, a local folder, or a repository on a model hub."""

import hashlib
from pathlib import Path

from chatglm2.checkpoint.embedded import embedded_model
from chatglm2.checkpoint.original import is_original
from chatglm2.errors import SetupError


def resolve(model: str, revision: str | None, cache: Path) -> Path:
    """Folder of the native checkpoint that `model` names; fetched or converted under `cache` if need be.

    Raises SetupError where there is none.
    """
    if not model:
        return embedded_model(cache)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _native(folder, cache)
    if folder.is_absolute() or model.startswith((".", "~")):
        raise SetupError(f"no model folder at {folder}; name an existing one, a hub id, or leave the setting empty")
    return _native(_from_hub(model, revision), cache)


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


def _from_hub(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only where a hub is used

    try:
        return Path(snapshot_download(model, revision=revision, ignore_patterns=["*.py"]))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SetupError(f"model {model!r} is no folder here and could not be fetched: {reason}") from error
