"""Files and folders that several processes may want to write, and checksums of any size."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console


@contextmanager
def alone_in(folder: Path, console: Console) -> Iterator[None]:
    """Wait until no other process holds the lock of `folder`. It ends with its process, however that ends."""
    with opened(folder) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.out(f"waiting for another process that writes into {folder}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A new folder that becomes `folder` at the end of the block, and is removed when the block fails."""
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sha256(path: Path) -> str:
    """Checksum of a file of any size, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
