"""The command line: train, evaluate, serve. Nothing heavy is imported before a command runs."""

import os
from pathlib import Path
from typing import Annotated

import typer

from denoiser.errors import DenoiserError
from denoiser.settings import BUNDLED_CHECKPOINT, read_settings

app = typer.Typer(help="Repair noisy sentence embeddings.", no_args_is_help=True, pretty_exceptions_enable=False)

PerSource = Annotated[int, typer.Option(min=1, help="Sentences from each source, times its weight.")]


@app.command()
def train(
    output: Annotated[Path, typer.Option(help="Checkpoint folder to write.")] = Path("checkpoint"),
    text: Annotated[list[Path] | None, typer.Option(help="UTF-8 text to train on instead; repeatable.")] = None,
    per_source: PerSource = 2200,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 5000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same checkpoint.")] = 0,
) -> None:
    """Train on text of Debian packages (kept in the folder DENOISER_CACHE), or on your own text files."""
    from denoiser.commands import train_checkpoint  # noqa: PLC0415
    from denoiser.progress import say  # noqa: PLC0415
    from denoiser.training import Recipe  # noqa: PLC0415

    recipe = Recipe(steps=steps, seed=seed)
    manifest = train_checkpoint(output, text or [], read_settings().denoiser_cache, per_source, recipe)
    say(f"wrote {output} (sha256 {manifest['sha256'][:12]}); serve it with MODEL_PATH={output}")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Option(help="Checkpoint folder.")] = BUNDLED_CHECKPOINT,
    per_source: PerSource = 2200,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables here, not to standard output.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write every figure here.")] = None,
) -> None:
    """Measure a checkpoint against baselines on held-out and unfamiliar text."""
    from denoiser.commands import evaluate_checkpoint  # noqa: PLC0415

    evaluate_checkpoint(model, read_settings().denoiser_cache, per_source, markdown, json)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on [8000].")] = None,
) -> None:
    """Serve over HTTP; settings come from the environment (MODEL_PATH, PORT, API_KEY, ...)."""
    from denoiser.server import serve as run  # noqa: PLC0415

    settings = read_settings()
    run(settings if port is None else settings.model_copy(update={"port": port}), host)


def main() -> None:
    """Run a command; a refusal is one line on standard error and exit code 1."""
    # Read when torch loads: threads that wait for each other sleep. Spinning, the default, makes two busy services on
    # one small machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except DenoiserError as error:
        typer.echo(f"denoiser: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
