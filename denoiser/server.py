"""Running the app: one process, one port, gone cleanly on SIGTERM."""

import signal
import socket

import uvicorn

from denoiser.app import create_app
from denoiser.checkpoint import load, read_manifest
from denoiser.errors import DenoiserError
from denoiser.logs import configure_logs
from denoiser.service import Limits, Service
from denoiser.settings import Settings

SHUTDOWN_SECONDS = 25
"""Docker and SageMaker kill 30 seconds after SIGTERM."""


def load_service(settings: Settings) -> Service:
    """Checkpoint and encoder on the best device of this machine. Raises CheckpointError, DenoiserError."""
    import torch  # noqa: PLC0415

    from denoiser.denoise import Denoiser  # noqa: PLC0415
    from denoiser.encoder import MiniLM, find_model  # noqa: PLC0415

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    denoiser = Denoiser.from_checkpoint(*load(settings.model_path, device), device)
    encoder = MiniLM(settings.encoder_path or find_model(), device)
    return Service(denoiser, encoder, Limits(settings.max_rows, settings.max_texts))


def serve(settings: Settings, host: str) -> None:
    """Serve until SIGTERM or SIGINT. Raises DenoiserError when the port is taken or the model cannot be read."""
    read_manifest(settings.model_path)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, settings.port), family=family)
    except OSError as error:
        raise DenoiserError(
            f"cannot listen on {host}:{settings.port} ({error.strerror}); choose another with --port"
        ) from error
    configure_logs()
    failures: list[Exception] = []

    def stop(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(lambda: load_service(settings), settings, stop)
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS)
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn shuts down on them, then raises them once more
        signal.signal(number, lambda *_: None)
    with listening:
        server.run(sockets=[listening])
    if failures:
        raise DenoiserError(f"the model cannot be loaded: {failures[0]}")
