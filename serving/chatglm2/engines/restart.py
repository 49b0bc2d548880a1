"""Starting an engine again that ended: once for all requests that need it, and for none of them in particular."""

import asyncio
from collections.abc import Callable

from chatglm2.errors import Unavailable


class Restart:
    """Calls `start_again`, which takes its time, in a thread; never twice at once, and not after `close`."""

    def __init__(self, ready: Callable[[], bool], start_again: Callable[[], None]) -> None:
        self._ready, self._start_again = ready, start_again
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def ensure_ready(self) -> None:
        """Return when the engine is ready. Raises Unavailable after `close`, and what starting it raises.

        A request that is cancelled meanwhile leaves the restart to the others.
        """
        if not self._ready():
            await asyncio.shield(self.begin())

    def begin(self) -> asyncio.Task[None]:
        """The restart under way, or a new one."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return self._task

    async def close(self) -> None:
        """Begin no other one, and return when none is under way."""
        self._closed = True
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        if self._closed:
            raise Unavailable("the service is shutting down")
        if not self._ready():
            await asyncio.to_thread(self._start_again)
