"""What a person sees while a command works, on standard error: a bar on a terminal, plain lines in a log."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

LINE_SECONDS = 15.0


def say(text: str) -> None:
    """One line."""
    Console(stderr=True, highlight=False, markup=False, emoji=False).print(text, soft_wrap=True)


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Progress over `total` bytes; yields a function, for any thread, that takes the bytes just done."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done: progress.advance(task, done)
    else:
        yield _Lines(what, total).advance


class _Lines:
    """At most a line every 15 seconds, and one at the end."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._last = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, done: int) -> None:
        with self._lock:
            self._done += done
            if self._done < self._total and time.monotonic() - self._last < LINE_SECONDS:
                return
            self._last = time.monotonic()
            say(f"{self._what}: {self._done / 1e6:.1f} of {self._total / 1e6:.1f} MB")
