"""Finds the model a setting names: the embedded default, a local folder, or a repository on a model hub."""

from pathlib import Path

from chatglm2.checkpoint.embedded import embedded_model
from chatglm2.errors import SetupError


def resolve(model: str, revision: str | None, cache: Path) -> Path:
    """Folder of the native checkpoint that `model` names; fetched or converted under `cache` if need be.

    Raises SetupError where there is none.
    """
    if not model:
        return embedded_model(cache)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _checked(folder)
    if folder.is_absolute() or model.startswith((".", "~")):
        raise SetupError(f"no model folder at {folder}; name an existing one, a hub id, or leave the setting empty")
    return _checked(_from_hub(model, revision))


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise SetupError(f"{folder} holds no config.json, so it is no model folder; name the folder of a checkpoint")
    return folder


def _from_hub(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only where a hub is used

    try:
        return Path(snapshot_download(model, revision=revision, ignore_patterns=["*.py"]))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SetupError(f"model {model!r} is no folder here and could not be fetched: {reason}") from error
