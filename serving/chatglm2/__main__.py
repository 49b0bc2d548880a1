"""Command line of the chat service: `python -m chatglm2 COMMAND`."""

import asyncio
import math
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from chatglm2.errors import SetupError
from chatglm2.settings import read_settings

cli = typer.Typer(add_completion=False, no_args_is_help=True)

Model = Annotated[
    str | None,
    typer.Option(
        help="Folder, hub id or s3:// prefix. (default: HF_MODEL_ID, else /opt/ml/model, else the embedded SmolLM2)"
    ),
]
Host = Annotated[str | None, typer.Option(help="Address to listen on. (default: 127.0.0.1)")]
Port = Annotated[int | None, typer.Option(help="Port to listen on. (default: 8080)")]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16. (default: float16 on CUDA, else float32)")
]


@cli.callback()
def commands() -> None:
    """Chat service: ChatGLM2 behind HTTP."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started ends, too


@cli.command()
def serve(model: Model = None, host: Host = None, port: Port = None, dtype: Dtype = None) -> None:
    """Serve HTTP without Java: the same routes and answers as behind DJL Serving."""
    settings = read_settings(model=model, host=host, port=port, dtype=dtype)
    listener = _listen(settings.host, settings.port)
    import uvicorn  # noqa: PLC0415

    from chatglm2.app import Server, create_app  # noqa: PLC0415
    from chatglm2.logs import configure  # noqa: PLC0415
    from chatglm2.protocol import Protocol  # noqa: PLC0415
    from chatglm2.startup import load  # noqa: PLC0415

    configure()
    service = load(settings)
    wait = math.ceil(settings.drain_seconds) + 2
    app = create_app(service, settings)
    config = uvicorn.Config(
        app, http=Protocol, ws="none", log_level="warning", timeout_graceful_shutdown=wait, server_header=False
    )
    server = Server(config, service, settings.drain_seconds)
    for number in (signal.SIGTERM, signal.SIGINT):  # what comes before uvicorn listens, and what it raises once more
        signal.signal(number, server.handle_exit)
    server.run(sockets=[listener])


@cli.command()
def djl(model: Model = None, host: Host = None, port: Port = None, dtype: Dtype = None) -> None:
    """Serve behind DJL Serving, found in DJL_SERVING_HOME or fetched. Needs Java 17."""
    settings = read_settings(model=model, host=host, port=port, dtype=dtype)
    if ":" in settings.host:
        raise SetupError(f"DJL Serving takes no IPv6 address, got {settings.host}; choose another --host, or use serve")
    from chatglm2.checkpoint.native import check_readable  # noqa: PLC0415
    from chatglm2.device import choose_device  # noqa: PLC0415
    from chatglm2.djl import check_java, find_release, run  # noqa: PLC0415
    from chatglm2.startup import find_model  # noqa: PLC0415

    check_java()
    choose_device(settings.device)
    _listen(settings.host, settings.port).close()
    release = find_release(settings.djl_serving_home, settings.cache_dir)
    folder = find_model(settings)
    check_readable(folder)
    found = {"model": str(folder), "served_model_name": settings.served_name}
    raise typer.Exit(asyncio.run(run(release, settings.model_copy(update=found))))


@cli.command()
def prepare(model: Model = None) -> None:
    """Fetch and convert the model, so that the next start takes seconds."""
    settings = read_settings(model=model)
    from chatglm2.startup import find_model  # noqa: PLC0415

    print(find_model(settings))


@cli.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Folder with the original ChatGLM2 files.")],
    destination: Annotated[Path, typer.Argument(help="Folder to make; transformers and vLLM load it as it is.")],
) -> None:
    """Turn original ChatGLM2 files into a native checkpoint."""
    from chatglm2.checkpoint.convert import convert as run  # noqa: PLC0415

    run(source, destination)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that holds the port from now on, before minutes are spent on loading. Raises SetupError."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise SetupError(
            f"cannot listen on {host}:{port}: {error.strerror}; stop what uses it or choose another --port"
        ) from None


def main() -> None:
    """Run a command; what cannot start says why in one line and exits with 1."""
    try:
        cli()
    except SetupError as error:
        print(f"chatglm2: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
