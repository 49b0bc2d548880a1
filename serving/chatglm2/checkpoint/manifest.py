"""The record in every converted folder of the files it was made from, and whether a folder still matches them."""

import json
from pathlib import Path
from typing import Any

from chatglm2.errors import CheckpointError
from chatglm2.files import sha256

MANIFEST = "conversion.json"
VERSION = 1  # of the native files; folders made by another version are made again


def manifest(folder: Path, sources: list[Path], checksums: dict[Path, str]) -> dict[str, Any]:
    """What to record in a finished `folder` that was made from the files `sources`; some `checksums` are known."""
    return {
        "version": VERSION,
        "source": {path.name: _facts(path) | {"sha256": checksums.get(path) or sha256(path)} for path in sources},
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }


def _facts(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}


def is_made_from(destination: Path, sources: list[Path]) -> bool:
    """Whether the folder is finished and up to date. Raises CheckpointError when it is not a conversion at all."""
    if not destination.exists() or (destination.is_dir() and not any(destination.iterdir())):
        return False
    try:
        manifest = json.loads((destination / MANIFEST).read_text(encoding="utf-8"))
        version, recorded, files = manifest["version"], manifest["source"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{destination}: exists and is no converted checkpoint; name another folder or remove this one"
        ) from None
    whole = all((destination / name).is_file() and (destination / name).stat().st_size == files[name] for name in files)
    same_names = sorted(recorded) == sorted(path.name for path in sources)
    return bool(
        version == VERSION and whole and same_names and all(_same(path, recorded[path.name]) for path in sources)
    )


def _same(path: Path, recorded: dict[str, Any]) -> bool:
    """Content is read only where size and time do not settle it."""
    facts = _facts(path)
    if facts.items() <= recorded.items():
        return True
    return bool(facts["size"] == recorded["size"] and sha256(path) == recorded["sha256"])
