"""The evaluation's figures as a picture: neighbour overlap over the noise level, a row for each set."""

import io
from importlib.util import find_spec
from pathlib import Path

from denoiser.errors import DenoiserError
from denoiser.evaluation.measures import Measure
from denoiser.files.outputs import write_bytes
from denoiser.model.neighbours import SITUATIONS


def check_plots() -> None:
    """Raises DenoiserError where nothing can be drawn."""
    if find_spec("matplotlib") is None:
        raise DenoiserError("plots need matplotlib; install it with: pip install matplotlib")


def draw_sweep(measures: list[Measure], path: Path) -> None:
    """Write a PNG: sets by situations, a line with its 95% interval for each method. Raises FileError."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    domains, methods = (list(dict.fromkeys(getattr(m, key) for m in measures)) for key in ("domain", "method"))
    figure = Figure(figsize=(4 * len(SITUATIONS), 2.6 * len(domains) + 0.6), layout="constrained")
    axes = figure.subplots(len(domains), len(SITUATIONS), squeeze=False, sharex=True)
    for row, domain in enumerate(domains):
        for column, situation in enumerate(SITUATIONS):
            axis = axes[row][column]
            for method in methods:
                points = [m for m in measures if (m.domain, m.method) == (domain, method)]
                levels = [m.level for m in points]
                axis.plot(levels, [m.overlap[situation] for m in points], marker=".", label=method)
                low, high = zip(*(m.interval[situation] for m in points), strict=True)
                axis.fill_between(levels, low, high, alpha=0.15)
            axis.set_title(f"{domain}: {situation}", fontsize=9)
            axis.set_xscale("log")
            axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("neighbour overlap@10")
    figure.supxlabel("noise level")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=len(methods))
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110, format="png")
    write_bytes(path, drawn.getvalue())
