"""Random numbers of PyTorch that depend on a seed and on nothing else, and leave the caller's as they were."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Draw from this seed, on the CPU and on `device`; other devices are not touched."""
    with torch.random.fork_rng(devices=[] if device == "cpu" else [device]):
        torch.manual_seed(seed)
        yield
