"""Whether a native checkpoint can be read at all: told from file names and headers, without loading a weight."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from chatglm2.checkpoint.errors import CheckpointError

INDEX = "model.safetensors.index.json"


def check_readable(folder: Path) -> None:
    """Raises CheckpointError naming a weights file that is missing, or whose size does not fit its header."""
    for file in _shards(folder):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{file} cannot be read: {reason}; fetch or convert the model again") from error


def _shards(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        names = json.loads(index.read_text())["weight_map"].values()
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{index} is no index of weights ({error!r}); fetch or convert the model again"
        ) from error
    return sorted({folder / name for name in names})
