"""Whether a file can be written, found out before the work that it is for."""

from pathlib import Path

from denoiser.errors import FileError


def try_file(path: Path) -> None:
    """Leave the file, or its absence, as it was. Raises FileError when it cannot be written; devices are not tried."""
    real = path.resolve()
    try:
        there = real.exists()
        if there and not (real.is_file() or real.is_dir()):
            return
        real.open("ab").close()
        if not there:
            real.unlink()
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror}; make room or name another place") from error
