"""Files that are written: whether they can be, found out before the work that it is for, and by one run at a time."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from denoiser.errors import FileError

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


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
        raise unwritable(path, error) from error


@contextmanager
def alone_at(path: Path) -> Iterator[None]:
    """Make the file where there is none, and let no other run write it until the end of the block; a killed run lets go
    of it. On a file system without locks nobody is stopped. Raises FileError when another run has it, or when it cannot
    be written.
    """
    with ExitStack() as held:
        try:
            file = held.enter_context(path.open("ab"))
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileError(f"another run writes {path}; wait for it to end or name another output") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise unwritable(path, error) from error
        yield


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file. Raises FileError."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> FileError:
    """What is said of a file that cannot be written."""
    return FileError(f"cannot write {path}: {error.strerror}; make room or name another place")
