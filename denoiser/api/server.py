"""Running the app: one process, one port, gone cleanly on SIGTERM."""

import gc
import signal
import socket
import threading
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import structlog
import uvicorn

from denoiser.api.app import TrainingParts, create_app
from denoiser.api.gate import is_local
from denoiser.api.protocol import Protocol
from denoiser.api.requests import Limits
from denoiser.api.service import Service
from denoiser.api.tunnel import open_tunnel, require_tunnel
from denoiser.errors import CheckpointError, DenoiserError, OffError
from denoiser.logs import configure_logs
from denoiser.model.checkpoint import load, read_manifest
from denoiser.settings import Settings

if TYPE_CHECKING:
    from denoiser.jobs.training import Training
    from denoiser.model.denoise import Denoiser

SHUTDOWN_SECONDS = 22
"""Docker and SageMaker kill 30 seconds after SIGTERM, and the batch that is being computed takes some of the rest."""

_log = structlog.get_logger()


def open_denoiser(path: Path) -> "Denoiser":
    """The denoiser of a checkpoint, on the best device of this machine. Raises CheckpointError."""
    import torch  # noqa: PLC0415

    from denoiser.model.denoise import Denoiser  # noqa: PLC0415
    from denoiser.model.encoder import WIDTH  # noqa: PLC0415

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    denoiser = Denoiser.from_checkpoint(*load(path, device), device)
    if denoiser.width != WIDTH:
        raise CheckpointError(f"{path} is for embeddings of {denoiser.width} numbers; the encoder gives {WIDTH}")
    return denoiser


def load_service(settings: Settings, training: "Training | None" = None) -> Service:
    """Active checkpoint and encoder on the best device of this machine. Raises CheckpointError, DenoiserError."""
    from denoiser.model.encoder import MiniLM, find_model  # noqa: PLC0415

    denoiser = training.open_active(open_denoiser) if training else open_denoiser(settings.model_path)
    encoder = MiniLM(settings.encoder_path or find_model(), denoiser.device)
    # The garbage collector need not walk through what is there now and stays: with PyTorch that takes a quarter of
    # a second, in which no request is answered.
    gc.collect()
    gc.freeze()
    return Service(denoiser, encoder, Limits(settings.max_rows, settings.max_texts))


def only_readable(settings: Settings, host: str) -> OffError | None:
    """Why jobs and models may be read but not changed here; None where they may."""
    if settings.required_key or is_local(host):
        return None
    return OffError(f"uploads and model switching are off: the service listens on {host}; set API_KEY")


def open_training(settings: Settings) -> "Training | OffError":
    """Jobs and models in the data folder, or why there are none here."""
    from denoiser.jobs import training  # noqa: PLC0415

    try:
        return training.open_training(
            settings.denoiser_data, settings.model_path, settings.encoder_path, settings.train_steps
        )
    except OffError as error:
        return error


def listen(host: str, port: int) -> socket.socket:
    """A socket on a port. Raises DenoiserError when it is taken."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise DenoiserError(f"cannot listen on {host}:{port} ({error.strerror}); choose another with --port") from error


class _Server(uvicorn.Server):
    """Tells the app at once that it is to stop, so that streams end."""

    def __init__(self, config: uvicorn.Config, stopping: threading.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stopping.set()
        super().handle_exit(sig, frame)


def serve(settings: Settings, host: str, *, tunnel: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, also at a public address with `tunnel`.

    Raises DenoiserError when the port is taken, the model cannot be read or the tunnel cannot be opened.
    """
    if tunnel:
        require_tunnel(settings)
    read_manifest(settings.model_path)
    listening = listen(host, settings.port)
    configure_logs()
    failures: list[Exception] = []

    def stop(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    stopping = threading.Event()
    training, closed = open_training(settings), only_readable(settings, host)
    loading = None if isinstance(training, OffError) else training
    for off in (training, closed):
        if isinstance(off, OffError):
            _log.warning(str(off))
    parts = TrainingParts(training, open_denoiser, stopping, closed)
    app = create_app(lambda: load_service(settings, loading), settings, stop, parts)
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    server = _Server(config, stopping)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn shuts down on them, then raises them once more
        signal.signal(number, lambda *_: None)
    with listening, open_tunnel(settings, listening.getsockname()[1]) if tunnel else nullcontext():
        server.run(sockets=[listening])
    if failures:
        raise DenoiserError(f"the model cannot be loaded: {failures[0]}")
