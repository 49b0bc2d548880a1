"""The visible text of an answer while it is made: decoded, stripped, cut at a stop string, never taken back.

Joined deltas equal the whole answer. Text that later text could still change (space at either end, the start of a stop
string or of a substitution) is held back until it cannot.
"""

from chatglm2.detokenizer import Detokenizer

SUBSTITUTIONS = {"[[训练时间]]": "2023年"}
"""ChatGLM2 writes this marker for the time of its training; the original replaces it in every answer."""

BROKEN = "\ufffd"
"""Stands for bytes that are no character."""


class Answer:
    """Collects one answer. `stopped` is true once a stop string has ended it."""

    def __init__(self, detokenizer: Detokenizer, stop: tuple[str, ...] = ()) -> None:
        self._detokenizer = detokenizer
        self._stop = stop
        self._marks = (*stop, *SUBSTITUTIONS)
        self._starts = frozenset(mark[0] for mark in self._marks)
        self._held = ""
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that becomes visible with this token, often empty."""
        return "" if self.stopped else self._take(self._detokenizer.push(token), last=False)

    def finish(self) -> str:
        """The text that was held back, now that no token follows."""
        return "" if self.stopped else self._take(self._detokenizer.finish(), last=True)

    def _take(self, piece: str, last: bool) -> str:
        held = self._cut(self._held + piece)
        for marker, text in SUBSTITUTIONS.items():
            held = held.replace(marker, text)
        keep = 0 if last or self.stopped else self._undecided(held)
        visible = held[: len(held) - keep].rstrip()
        self._held = held[len(visible) :]
        visible = visible if self.text else visible.lstrip()
        self.text += visible
        return visible

    def _cut(self, text: str) -> str:
        """`text` before the stop string that is complete first, so that it does not matter how tokens split it."""
        found = [(place + len(stop), place) for stop in self._stop if (place := text.find(stop)) >= 0]
        self.stopped = bool(found)
        return text[: min(found)[1]] if found else text

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` that could be the start of a stop string or a substitution, or that is a
        broken character, which the original shows only together with what follows."""
        if text.endswith(BROKEN):
            return len(text) - len(text.rstrip(BROKEN))
        longest = min(len(text), max(map(len, self._marks)) - 1)
        if self._starts.isdisjoint(text[len(text) - longest :]):
            return 0
        ends = (size for size in range(longest, 0, -1) if any(mark.startswith(text[-size:]) for mark in self._marks))
        return next(ends, 0)
