"""Command line of the measurements."""

import typer

from bench.chat import concurrency
from bench.convert import conversion
from bench.denoiser import embeddings, files

cli = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@cli.callback()
def commands() -> None:
    """Measurements, each one command."""


cli.command("chat")(concurrency)
cli.command("convert")(conversion)
cli.command("embeddings")(embeddings)
cli.command("files")(files)

if __name__ == "__main__":
    cli()
