"""An engine that ended is started again once, whoever asks for it and whoever stops waiting."""

import asyncio
import contextlib
import threading

import pytest

from chatglm2.engines.restart import Restart
from chatglm2.errors import Unavailable


class Engine:
    """Is ready again when it is allowed to start."""

    def __init__(self) -> None:
        self.is_ready, self.starts, self.may_start = False, 0, threading.Event()
        self.restart = Restart(lambda: self.is_ready, self._start_again)

    def _start_again(self) -> None:
        self.starts += 1
        self.may_start.wait(10)
        self.is_ready = True


async def test_a_request_that_leaves_does_not_stop_the_restart_for_the_others() -> None:
    engine = Engine()
    leaves, stays = (asyncio.create_task(engine.restart.ensure_ready()) for _ in range(2))
    await asyncio.sleep(0.05)
    leaves.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await leaves
    later = asyncio.create_task(engine.restart.ensure_ready())
    await asyncio.sleep(0.05)
    engine.may_start.set()
    await asyncio.gather(stays, later)
    assert engine.is_ready
    assert engine.starts == 1


async def test_closing_waits_for_a_restart_and_allows_no_other() -> None:
    engine = Engine()
    engine.restart.begin()
    closing = asyncio.create_task(engine.restart.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    engine.may_start.set()
    await closing
    engine.is_ready = False
    with pytest.raises(Unavailable):
        await engine.restart.ensure_ready()
    assert engine.starts == 1
