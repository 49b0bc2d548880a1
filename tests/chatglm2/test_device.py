"""Which device is chosen, asked of a stand-in for NVIDIA's driver library, which machines without a GPU lack."""

from typing import Any

import pytest

from chatglm2.device import choose_device
from chatglm2.errors import SetupError


class Driver:
    """The three functions of libcuda.so.1 that are asked, for a driver of CUDA `version` with `gpus` GPUs."""

    def __init__(self, version: int, gpus: int) -> None:
        self._version, self._gpus = version, gpus

    def cuDriverGetVersion(self, out: Any) -> int:  # noqa: N802 - the driver's names
        out._obj.value = self._version
        return 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return 0 if self._gpus else 100 + flags

    def cuDeviceGetCount(self, out: Any) -> int:  # noqa: N802
        out._obj.value = self._gpus
        return 0


def missing(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


def test_a_gpu_that_is_here_is_used() -> None:
    assert choose_device("auto", lambda _: Driver(13000, 1)) == "cuda"
    assert choose_device("cuda", lambda _: Driver(13010, 2)) == "cuda"


def test_without_a_gpu_auto_is_the_cpu() -> None:
    assert choose_device("auto", missing) == "cpu"
    assert choose_device("auto", lambda _: Driver(13000, 0)) == "cpu"


def test_cpu_is_the_cpu_whatever_is_here() -> None:
    assert choose_device("cpu", lambda _: Driver(12020, 1)) == "cpu"


@pytest.mark.parametrize(
    ("library", "says"),
    [(missing, "no NVIDIA driver is here"), (lambda _: Driver(13000, 0), "shows no GPU")],
    ids=["no driver", "no device"],
)
def test_a_gpu_that_was_asked_for_and_is_not_here_is_refused(library: Any, says: str) -> None:
    with pytest.raises(SetupError, match=says) as refusal:
        choose_device("cuda", library)
    assert "CHAT_DEVICE=cpu" in str(refusal.value)


@pytest.mark.parametrize("asked", ["auto", "cuda"])
def test_a_driver_that_is_too_old_is_refused_never_ignored(asked: Any) -> None:
    with pytest.raises(SetupError, match=r"driver here is for CUDA 12\.2.*install driver 580"):
        choose_device(asked, lambda _: Driver(12020, 1))
