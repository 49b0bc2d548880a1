"""Puts a chat service together from settings: finds the model, loads it, joins the parts."""

import os
from pathlib import Path

import structlog

from chatglm2.checkpoint.source import resolve
from chatglm2.device import choose_device
from chatglm2.errors import SetupError
from chatglm2.metrics import Metrics
from chatglm2.service import ChatService
from chatglm2.settings import Settings

log = structlog.get_logger()


def find_model(settings: Settings) -> Path:
    """Folder of the native checkpoint; fetching or converting it may take minutes. Raises SetupError."""
    return resolve(settings.model, settings.revision, settings.cache_dir, settings.mounted_model)


def load(settings: Settings) -> ChatService:
    """A service that is ready to answer. Takes seconds to minutes. Raises SetupError."""
    # Read when torch loads: threads that wait for each other sleep. Spinning, the default, makes two busy services on
    # one small machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    device = choose_device(settings.device)
    path = find_model(settings)
    import torch  # noqa: PLC0415 - seconds to import; a refusal, or `--help`, must not wait for it
    from transformers import AutoTokenizer  # noqa: PLC0415

    from chatglm2.detokenizer import TokenTexts  # noqa: PLC0415
    from chatglm2.engines.transformers import TransformersEngine  # noqa: PLC0415
    from chatglm2.prompt import Prompter  # noqa: PLC0415

    if device == "cuda" and not torch.cuda.is_available():
        raise SetupError(
            "there is a GPU, but the installed PyTorch cannot use it; install its CUDA build, or set CHAT_DEVICE=cpu"
        )
    default = torch.float16 if device == "cuda" else torch.float32
    dtype = default if settings.dtype == "auto" else getattr(torch, settings.dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        engine = TransformersEngine.load(
            path,
            dtype,
            device,
            cache_tokens=settings.cache_tokens,
            batch_tokens=settings.batch_tokens,
            max_running=settings.max_running,
        )
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SetupError(f"{path} cannot be loaded as a native checkpoint: {reason}") from error
    log.info("model loaded", model=settings.model or "embedded", device=device, dtype=str(dtype).removeprefix("torch."))
    metrics = Metrics(engine.cache_use)
    if settings.metrics_port is not None:
        metrics.serve(settings.host, settings.metrics_port)
    return ChatService(engine, Prompter(tokenizer), TokenTexts(tokenizer), settings, metrics)
