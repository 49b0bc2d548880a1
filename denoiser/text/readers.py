"""Processes that read packages side by side. They end when the one that started them does, even if it is killed."""

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess

_MOST = 8


def reading_processes() -> ProcessPoolExecutor:
    """One process for each processor, at most 8."""
    count = min(_MOST, os.cpu_count() or 1)
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _end_with_parent)


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_after, args=[parent], daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
