"""Which device a model runs on: a GPU that was asked for, or that is here, is used or the start refused, never ignored.

Asks the NVIDIA driver itself, so that a refusal needs no torch and comes before anything is fetched.
"""

import ctypes
from collections.abc import Callable
from typing import Any, Literal

from chatglm2.errors import SetupError

Device = Literal["cuda", "cpu"]

CUDA = 13
"""Major version that the pinned torch is built for; drivers from 580 on have it."""


def choose_device(asked: Literal["auto", "cuda", "cpu"], open_library: Callable[[str], Any] = ctypes.CDLL) -> Device:
    """`auto` is the GPU where a driver shows one, else the CPU. Raises SetupError for a GPU that cannot be used."""
    if asked == "cpu":
        return "cpu"
    try:
        driver = open_library("libcuda.so.1")
    except OSError:
        return _cpu_unless(asked, "no NVIDIA driver is here; give the container a GPU (docker run --gpus all)")
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    if version.value // 1000 < CUDA:
        found = f"{version.value // 1000}.{version.value % 1000 // 10}"
        raise SetupError(
            f"the NVIDIA driver here is for CUDA {found}, and PyTorch needs {CUDA}.0: install driver 580 or later, "
            "or set CHAT_DEVICE=cpu"
        )
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return _cpu_unless(asked, "the NVIDIA driver shows no GPU; check nvidia-smi and NVIDIA_VISIBLE_DEVICES")
    return "cuda"


def _cpu_unless(asked: str, problem: str) -> Device:
    if asked == "cuda":
        raise SetupError(f"CHAT_DEVICE=cuda, but {problem}, or set CHAT_DEVICE=cpu")
    return "cpu"
