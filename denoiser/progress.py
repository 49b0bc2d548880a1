"""Progress of long work on standard error: a bar on a terminal, plain lines in a log."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LINES = 10
Advance = Callable[[int, str], None]


def say(line: str) -> None:
    """One line about what was done."""
    Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True).print(line)


@contextlib.contextmanager
def tracking(what: str, total: int) -> Iterator[Advance]:
    """A function to call with the number of items just done and a note (such as the loss)."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(what, total)
        return
    name, note = (TextColumn(shown, markup=False) for shown in ("{task.description}", "{task.fields[note]}"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(name, BarColumn(), MofNCompleteColumn(), *times, note, console=console) as bar:
        task = bar.add_task(what, total=total, note="")
        yield lambda done, note: bar.update(task, advance=done, note=note)


def _plain(what: str, total: int) -> Advance:
    done, shown = 0, 0

    def advance(more: int, note: str) -> None:
        nonlocal done, shown
        done += more
        if done * _LINES // total > shown:
            shown = done * _LINES // total
            say(f"{what}: {done} of {total} {note}".rstrip())

    return advance
