"""Command line of the measurements."""

import signal
import sys

import typer

try:
    from bench.chat import chat, compare, pace
    from bench.checkpoint import checkpoint
    from bench.convert import conversion
    from bench.denoiser import embeddings, files
    from bench.soak import soak
except ModuleNotFoundError as error:
    sys.exit(f"bench: {error.name} is missing, which comes with the test tools; run: make install-dev")

cli = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@cli.callback()
def commands() -> None:
    """Measurements, each one command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is stopped, too


cli.command("chat")(chat)
cli.command("compare")(compare)
cli.command("pace")(pace)
cli.command("soak")(soak)
cli.command("checkpoint")(checkpoint)
cli.command("convert")(conversion)
cli.command("embeddings")(embeddings)
cli.command("files")(files)

if __name__ == "__main__":
    cli()
