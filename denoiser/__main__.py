"""The command line: train, denoise, evaluate, serve. Nothing heavy is imported before a command runs."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from denoiser.errors import DenoiserError
from denoiser.model import BLOCKS, FINE_TUNING_STEPS, HIDDEN, TRAINING_BATCH, TRAINING_STEPS, Mode
from denoiser.settings import read_settings
from denoiser.text import PER_SOURCE

app = typer.Typer(help="Repair noisy sentence embeddings.", no_args_is_help=True, pretty_exceptions_enable=False)

_OF_NEW_MODELS = ("per_source", "crossed", "batch", "hidden", "blocks", "device", "measure")
ModelPath = Annotated[Path | None, typer.Option(help="Checkpoint. (default: MODEL_PATH, else the bundled one)")]


@app.command()
def train(
    context: typer.Context,
    output: Annotated[Path, typer.Option(help="Checkpoint folder to write.")] = Path("checkpoint"),
    text: Annotated[
        list[Path] | None, typer.Option(help="UTF-8 text of your own, for a model to learn too; repeatable.")
    ] = None,
    model: ModelPath = None,
    per_source: Annotated[int, typer.Option(min=1, help="Sentences from each package, times its weight.")] = PER_SOURCE,
    crossed: Annotated[
        int, typer.Option(min=0, help="Texts more, of the first words of one sentence and the last of another.")
    ] = 0,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help=f"Training steps. (default: {TRAINING_STEPS}; of --text at most {FINE_TUNING_STEPS})"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Examples in a step.")] = TRAINING_BATCH,
    hidden: Annotated[int, typer.Option(min=1, help="Width of each block of the network.")] = HIDDEN,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks of the network.")] = BLOCKS,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to train.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same checkpoint.")] = 0,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure on unfamiliar text too; `evaluate` does it later otherwise.")
    ] = False,
) -> None:
    """Train a new model on text of Debian and Python packages (kept in DENOISER_CACHE), or a model further on yours."""
    if text:
        _refuse(context, _OF_NEW_MODELS, "is for a new model, trained on packages, and --text goes on from a model")
    else:
        _refuse(context, ("model",), "is what --text goes on from, and without --text a new model is trained")
    from denoiser.commands import Text, train_further, train_new  # noqa: PLC0415
    from denoiser.model.training import Recipe  # noqa: PLC0415
    from denoiser.progress import say  # noqa: PLC0415

    settings = read_settings()
    if text:
        recipe = Recipe(steps or FINE_TUNING_STEPS, seed=seed)
        manifest = train_further(output, text, model or settings.model_path, settings.denoiser_cache, recipe)
    else:
        recipe = Recipe(steps or TRAINING_STEPS, batch=batch, hidden=hidden, blocks=blocks, seed=seed, device=device)
        manifest = train_new(output, Text(per_source, crossed, measure), settings.denoiser_cache, recipe)
    say(
        f"wrote {output} (sha256 {manifest['sha256'][:12]}); measure it with evaluate --model {output}, "
        f"serve it with MODEL_PATH={output}"
    )


def _refuse(context: typer.Context, names: Iterable[str], reason: str) -> None:
    """Raises DenoiserError for options that are given and would mean nothing."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise DenoiserError(f"--{name.replace('_', '-')} {reason}; leave it out")


@app.command()
def denoise(
    source: Annotated[Path, typer.Argument(help="Vectors to read: .npy, .parquet or .jsonl.")],
    target: Annotated[Path, typer.Argument(help="File of the same format to write.")],
    model: ModelPath = None,
    noise_level: Annotated[
        float | None, typer.Option(min=0, max=10, help="Standard deviation of the noise; estimated without it.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="For search, or for the smallest squared error.")] = "neighbours",
    column: Annotated[str, typer.Option(help="Column or field of the vectors.")] = "embedding",
    adapt: Annotated[
        bool,
        typer.Option("--adapt", help="First learn from the whole file, of one noise level, how the model errs on it."),
    ] = False,
) -> None:
    """Denoise a file of vectors, larger than memory if need be; a run that was cut off goes on where it was."""
    from denoiser.commands import denoise_vectors  # noqa: PLC0415

    path, level = model or read_settings().model_path, "auto" if noise_level is None else noise_level
    denoise_vectors(source, target, path, noise_level=level, mode=mode, column=column, adapt=adapt)


@app.command()
def evaluate(
    model: ModelPath = None,
    text: Annotated[list[Path] | None, typer.Option(help="Measure on UTF-8 text of your own; repeatable.")] = None,
    vectors: Annotated[
        list[Path] | None,
        typer.Option(help="Measure on clean vectors: .npy, .parquet, .jsonl; repeatable."),
    ] = None,
    column: Annotated[str, typer.Option(help="Column or field of the vectors.")] = "embedding",
    markdown: Annotated[Path | None, typer.Option(help="Write the tables here, not to standard output.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write every figure here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the sweep over noise levels into this .png file.")] = None,
) -> None:
    """Measure a checkpoint against baselines on held-out and unfamiliar text, or on text or vectors of your own."""
    from denoiser.commands import Outputs, evaluate_checkpoint, evaluate_own  # noqa: PLC0415

    settings, outputs = read_settings(), Outputs(markdown, json, plot)
    path = model or settings.model_path
    if text or vectors:
        evaluate_own(path, text or [], vectors or [], column, outputs)
    else:
        evaluate_checkpoint(path, settings.denoiser_cache, outputs)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on. (default: PORT, else 8000)")
    ] = None,
    tunnel: Annotated[bool, typer.Option("--tunnel", help="Also serve at a public ngrok address, for a demo.")] = False,
) -> None:
    """Serve over HTTP; settings come from the environment (MODEL_PATH, PORT, API_KEY, ...)."""
    settings = read_settings()
    from denoiser.api.server import serve as run  # noqa: PLC0415

    run(settings if port is None else settings.model_copy(update={"port": port}), host, tunnel=tunnel)


def main() -> None:
    """Run a command; a refusal is one line on standard error and exit code 1."""
    # Read when torch loads: threads that wait for each other sleep after about 0.1 ms. Spinning for long, the default,
    # makes two busy services on one small machine ten times slower; sleeping at once makes one alone 6% slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except DenoiserError as error:
        typer.echo(f"denoiser: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
