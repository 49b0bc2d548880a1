"""Which weight files a checkpoint has, by its index: needs no more than the names in its folder."""

import json
from pathlib import Path

from chatglm2.errors import CheckpointError

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")


def list_shards(folder: Path) -> tuple[list[Path], set[str] | None]:
    """The weight files in order and, where an index says so, the keys they hold together.

    Raises CheckpointError for a broken index and for files that are missing.
    """
    index = next((folder / name for name in INDEXES if (folder / name).is_file()), None)
    if index is None:
        single = next((folder / name for name in SINGLES if (folder / name).is_file()), None)
        if single is None:
            raise CheckpointError(f"{folder}: no weights found (looked for {', '.join(INDEXES + SINGLES)}); add them")
        return [single], None
    weight_map = _weight_map(index)
    files = [folder / name for name in sorted(set(weight_map.values()))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(files)} shards missing: {', '.join(missing)}; add them"
        )
    return files, set(weight_map)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        plain = all(isinstance(name, str) and Path(name).name == name for name in weight_map.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: has no readable weight_map ({error}); download it again") from error
    if not weight_map or not plain:
        raise CheckpointError(f"{index}: weight_map names no files of this folder; download it again")
    return dict(weight_map)
