"""Speed of the chat service under load: of one address, or side by side with engines called directly and with peers."""

import contextlib
import json
import platform
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench.contenders import RECIPES, Contender, ContenderFailed, HttpServer, Recipe, Setup, started
from bench.prompts import SETS
from bench.roofline import Roofline, device_name, roofline
from bench.servers import address
from bench.turns import rotated
from chatglm2.errors import SetupError
from chatglm2.settings import read_settings
from chatglm2.startup import find_model

_console = Console(width=None if sys.stdout.isatty() else 120)


def _known_set(name: str) -> str:
    if name not in SETS:
        raise typer.BadParameter(f"got {name!r}; choose one of {', '.join(SETS)}")
    return name


Set = Annotated[str, typer.Option("--set", help=f"Prompts: {', '.join(SETS)}.", callback=_known_set)]
Concurrent = Annotated[str, typer.Option(help="Requests at once, by commas.")]
NewTokens = Annotated[int, typer.Option(min=1, help="Most new tokens of each answer.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds; the median of each figure counts.")]
Waves = Annotated[int, typer.Option(min=1, help="Requests in a round, as a multiple of those at once.")]
_VLLM_PYTHON = typer.Option(exists=True, dir_okay=False, help="Python of an environment with vLLM (make install-vllm).")
Only = Annotated[str, typer.Option(help="Contenders, by commas; a part of the name is enough.")]
Save = Annotated[Path | None, typer.Option(help="Write figures to this .json file, and a plot beside it (.png).")]

Figures = dict[str, list[dict[str, float]]]
"""By contender, a row for each level."""


@dataclass(frozen=True)
class Load:
    """What is asked of a contender: in each round and at each level so many waves of prompts, each wave as many as are
    sent at once; the next prompt is sent when an answer has ended."""

    prompts: str
    levels: list[int]
    new_tokens: int
    rounds: int
    waves: int

    def __str__(self) -> str:
        return f"prompts: {self.prompts}, {self.new_tokens} new tokens, {self.rounds} rounds, {self.waves} waves"


def chat(
    url: Annotated[
        str,
        typer.Argument(parser=address, help="Address of an OpenAI-compatible server; it is sent the key in API_KEY."),
    ] = "http://localhost:8080",
    model: Annotated[str, typer.Option(help="What the server calls its model.")] = "chatglm2",
    prompts: Set = "short",
    concurrent: Concurrent = "1,4,16,32,64",
    new_tokens: NewTokens = 48,
    rounds: Rounds = 1,
    waves: Waves = 1,
    save: Save = None,
) -> None:
    """Measure one server: tokens per second, time to the first token, time per token, at each number of requests."""
    load = Load(prompts, _levels(concurrent), new_tokens, rounds, waves)
    try:
        figures = _measure({url: HttpServer(url, model)}, load)
    except ContenderFailed as error:
        raise _refused(error) from None
    _show(figures, str(load))
    rows = figures[url]
    for row in rows[1:]:
        gain = row["tokens_per_second"] / rows[0]["tokens_per_second"]
        _console.print(
            f"{row['concurrent']:.0f} at once: {gain:.1f} times sooner than {rows[0]['concurrent']:.0f} at once"
        )
    _save(figures, save, load)


def compare(
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of a native checkpoint.")],
    vllm_python: Annotated[Path | None, _VLLM_PYTHON] = None,
    only: Only = "",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16, for all.")] = "bfloat16",
    eager: Annotated[bool, typer.Option("--eager", help="vLLM without compiling: starts minutes sooner.")] = False,
    gpu_memory: Annotated[float, typer.Option(help="Share of the GPU's memory for each that is on vLLM.")] = 0.2,
    prompts: Set = "short",
    concurrent: Concurrent = "1,16,32",
    new_tokens: NewTokens = 48,
    rounds: Rounds = 3,
    waves: Waves = 3,
    save: Save = None,
) -> None:
    """Start several ways to serve one model, let them take turns, and print each one's figures and ratios."""
    recipes = _chosen(RECIPES, only, vllm_python)
    load = Load(prompts, _levels(concurrent), new_tokens, rounds, waves)
    setup = Setup(model, dtype, eager, gpu_memory, vllm_python, Path(tempfile.mkdtemp(prefix="bench-")))
    limit = roofline(model)
    figures = _side_by_side(recipes, setup, load)
    _show(figures, f"{model.name}, {dtype}, {load}")
    if limit is not None:
        _show_limit(figures, limit)
    _save(figures, save, load)


def pace(
    vllm_python: Annotated[Path, _VLLM_PYTHON],
    step: Annotated[float, typer.Option(min=0, help="Milliseconds that a forward pass takes.")] = 5,
    only: Only = "",
    prompts: Set = "short",
    concurrent: Concurrent = "1,16,32,64",
    new_tokens: NewTokens = 64,
    rounds: Rounds = 5,
    waves: Waves = 6,
    save: Save = None,
) -> None:
    """What the service costs beside a fast GPU: vLLM with a model that only waits, over HTTP and called directly."""
    try:
        model = find_model(read_settings())
    except SetupError as error:
        raise _refused(error) from None
    recipes = _chosen({name: recipe for name, recipe in RECIPES.items() if "vLLM" in name}, only, vllm_python)
    setup = Setup(model, "float32", True, 0.2, vllm_python, Path(tempfile.mkdtemp(prefix="bench-")), step)
    load = Load(prompts, _levels(concurrent), new_tokens, rounds, waves)
    figures = _side_by_side(recipes, setup, load)
    _show(figures, f"a token each {step:g} ms, {load}")
    _save(figures, save, load)


def _chosen(recipes: Mapping[str, Recipe], only: str, vllm_python: Path | None) -> dict[str, Recipe]:
    """The recipes that can run and whose names have a part of `only`. Raises typer.BadParameter where none has."""
    parts = [part.strip() for part in only.split(",")]
    can_run = {name: recipe for name, recipe in recipes.items() if vllm_python or not recipe.vllm}
    chosen = {name: recipe for name, recipe in can_run.items() if any(part in name for part in parts)}
    if not chosen:
        raise typer.BadParameter(
            f"--only: got {only!r}, a part of none of these (vLLM's need --vllm-python): {', '.join(recipes)}"
        )
    return chosen


def _side_by_side(recipes: Mapping[str, Recipe], setup: Setup, load: Load) -> Figures:
    """Start contenders, let them take turns, and stop them. Raises typer.Exit where one fails."""
    _console.print(f"starting {len(recipes)} contenders; their messages are in {setup.logs}")
    try:
        with contextlib.ExitStack() as stack:
            contenders = {n: stack.enter_context(started(n, recipe, setup)) for n, recipe in recipes.items()}
            return _measure(contenders, load)
    except ContenderFailed as error:
        raise _refused(error) from None


def _refused(error: Exception) -> typer.Exit:
    print(f"bench: {error}", file=sys.stderr)
    return typer.Exit(1)


def _levels(text: str) -> list[int]:
    try:
        levels = [int(part) for part in text.split(",")]
    except ValueError:
        levels = [0]
    if min(levels) < 1:
        raise typer.BadParameter(f"{text!r}: give numbers by commas, such as 1,16,32")
    return levels


def _measure(contenders: dict[str, Contender], load: Load) -> Figures:
    """Every contender at every level, in turns; the first, short round warms up and does not count."""
    number = 0

    def some(count: int) -> list[str]:
        nonlocal number
        number += count
        return [SETS[load.prompts](number - place) for place in range(count)]

    for contender in contenders.values():
        contender.measure(some(4), 4, 4)
    found: dict[str, list[list[dict[str, float]]]] = {name: [[] for _ in load.levels] for name in contenders}
    for turn in range(load.rounds):
        for place, level in enumerate(load.levels):
            batch = some(max(8, level * load.waves))
            for name in rotated(list(contenders), turn):
                figures = contenders[name].measure(batch, level, load.new_tokens).figures()
                found[name][place].append(figures)
                speed = f"{figures['tokens_per_second']:.1f} tokens/s"
                print(f"round {turn + 1}, {level} at once, {name}: {speed}", flush=True)
    bases = next(iter(found.values()))
    return {
        name: [_medians(runs, base) for runs, base in zip(by_level, bases, strict=True)]
        for name, by_level in found.items()
    }


def _medians(runs: list[dict[str, float]], base: list[dict[str, float]]) -> dict[str, float]:
    """Medians over the rounds; `ratio` is that of the tokens per second to the first contender's in the same round."""
    ratios = [run["tokens_per_second"] / other["tokens_per_second"] for run, other in zip(runs, base, strict=True)]
    return {key: median(run[key] for run in runs) for key in runs[0]} | {"ratio": median(ratios)}


def _show(figures: Figures, title: str) -> None:
    table = Table("at once", "tokens/s", "ratio", "first token p50", "p95", "per token", title=title)
    table.columns[0].no_wrap = True
    first, *_ = figures.values()
    for place in range(len(first)):
        table.add_section()
        for name, rows in figures.items():
            row = rows[place]
            table.add_row(
                f"{row['concurrent']:.0f}  {name}",
                f"{row['tokens_per_second']:.1f}",
                f"{row['ratio']:.2f}",
                f"{row['first_token_p50'] * 1000:.0f} ms",
                f"{row['first_token_p95'] * 1000:.0f} ms",
                f"{row['per_token_p50'] * 1000:.1f} ms",
            )
    _console.print(table)


def _show_limit(figures: Figures, limit: Roofline) -> None:
    """How near each contender comes to the limit with one request, by its time per token after the first."""
    _console.print(str(limit))
    for name, rows in figures.items():
        for row in rows:
            if row["concurrent"] == 1 and row["per_token_p50"] > 0:  # not where an answer comes whole
                share = 1 / row["per_token_p50"] / limit.tokens_per_second
                _console.print(
                    f"  {name}: {1 / row['per_token_p50']:.0f} tokens/s after the first, {share:.0%} of that"
                )


def _save(figures: Figures, path: Path | None, load: Load) -> None:
    if path is None:
        return
    about: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {platform.system()}, {device_name()}",
        "load": asdict(load),
        "contenders": figures,
    }
    path.write_text(json.dumps(about, indent=1) + "\n")
    _plot(figures, path.with_suffix(".png"))


def _plot(figures: Figures, path: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8, 5))
    axes = figure.subplots()
    for name, rows in figures.items():
        axes.plot(
            [row["concurrent"] for row in rows], [row["tokens_per_second"] for row in rows], marker="o", label=name
        )
    axes.set(xlabel="requests at once", ylabel="new tokens per second", xscale="log")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120, bbox_inches="tight")
