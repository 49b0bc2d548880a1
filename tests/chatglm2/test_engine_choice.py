"""Which engine is chosen, by settings, device and what the installed vLLM is built for."""

import pytest

from chatglm2.device import Device
from chatglm2.errors import SetupError
from chatglm2.settings import Settings
from chatglm2.startup import choose_engine

AUTO, VLLM = Settings(engine="auto"), Settings(engine="vllm")


def test_auto_is_vllm_only_where_it_can_use_the_gpu() -> None:
    assert choose_engine(AUTO, "cuda", "cuda") == "vllm"
    assert choose_engine(AUTO, "cuda", "cpu") == "transformers"
    assert choose_engine(AUTO, "cuda", None) == "transformers"
    assert choose_engine(AUTO, "cpu", "cuda") == "transformers"
    assert choose_engine(AUTO, "cpu", "cpu") == "transformers"


def test_vllm_runs_on_what_it_is_built_for() -> None:
    assert choose_engine(VLLM, "cuda", "cuda") == "vllm"
    assert choose_engine(VLLM, "cpu", "cpu") == "vllm"


@pytest.mark.parametrize(
    ("device", "built_for", "way"),
    [("cpu", None, "install requirements"), ("cpu", "cuda", "give the container a GPU"), ("cuda", "cpu", "DEVICE=cpu")],
    ids=["not installed", "no GPU", "not for the GPU"],
)
def test_vllm_that_cannot_run_is_refused_with_the_way_out(device: Device, built_for: Device | None, way: str) -> None:
    with pytest.raises(SetupError, match=way) as refusal:
        choose_engine(VLLM, device, built_for)
    assert "CHAT_ENGINE=transformers" in str(refusal.value)


def test_several_gpus_need_vllm() -> None:
    with pytest.raises(SetupError, match="2 are asked for; set CHAT_ENGINE=vllm"):
        choose_engine(Settings(engine="transformers", tensor_parallel=2), "cuda", "cuda")
