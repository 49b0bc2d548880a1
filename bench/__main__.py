"""Command line of the measurements."""

import typer

from bench.chat import concurrency
from bench.convert import conversion

cli = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@cli.callback()
def commands() -> None:
    """Measurements, each one command."""


cli.command("chat")(concurrency)
cli.command("convert")(conversion)

if __name__ == "__main__":
    cli()
