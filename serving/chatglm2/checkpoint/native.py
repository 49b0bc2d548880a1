"""Whether a native checkpoint can be read at all: told from file names and headers, without loading a weight."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from chatglm2.checkpoint.index import list_shards
from chatglm2.errors import CheckpointError


def check_readable(folder: Path) -> None:
    """Raises CheckpointError naming a weights file that is missing, or whose size does not fit its header."""
    files, _ = list_shards(folder)
    for file in files:
        if file.suffix != ".safetensors":
            continue
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{file} cannot be read: {reason}; fetch or convert the model again") from error
