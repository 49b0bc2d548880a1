"""How fast one request could be at the most: each new token reads every weight from the GPU's memory once.

The roofline model of Williams, Waterman and Patterson (2009), where little is computed on each byte.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from safetensors import safe_open

from chatglm2.checkpoint.index import list_shards

COPIED = 4 * 2**30
"""Bytes; far more than any cache holds."""


@dataclass(frozen=True)
class Roofline:
    """One GPU and one model."""

    device: str
    bandwidth: float
    """Bytes a second, read and written, of a copy within the GPU's memory."""
    weights: int
    """Bytes that a token needs: all weights but the embeddings, of which it reads one row."""

    @property
    def tokens_per_second(self) -> float:
        """Of one request that does nothing but read weights."""
        return self.bandwidth / self.weights

    def __str__(self) -> str:
        return (
            f"{self.device}: a copy moves {self.bandwidth / 1e12:.2f} TB/s, a token reads {self.weights / 1e9:.2f} GB; "
            f"at most {self.tokens_per_second:.0f} tokens/s for one request"
        )


def roofline(model: Path) -> Roofline | None:
    """For the native checkpoint `model` in the type of its files on the GPU that is here; None without one."""
    if not torch.cuda.is_available():
        return None
    return Roofline(device_name(), copy_bandwidth(), weight_bytes(model))


def device_name() -> str:
    """The GPU's, or that there is none."""
    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "no GPU"


def copy_bandwidth() -> float:
    """Bytes a second, median of 20 copies."""
    source = torch.empty(COPIED, dtype=torch.uint8, device="cuda").random_()
    copy = torch.empty_like(source)
    seconds = list[float]()
    for _ in range(20):
        torch.cuda.synchronize()
        started = time.perf_counter()
        copy.copy_(source)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    del source, copy
    torch.cuda.empty_cache()
    return 2 * COPIED / median(seconds)


def weight_bytes(model: Path) -> int:
    """Of all tensors in `model`'s safetensors files but the embeddings, unless they are the output layer's too."""
    tied = json.loads((model / "config.json").read_text()).get("tie_word_embeddings", False)
    total = 0
    for file in list_shards(model)[0]:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no dict
                if tied or name != "model.embed_tokens.weight":
                    total += tensors.get_tensor(name).nbytes
    return total
