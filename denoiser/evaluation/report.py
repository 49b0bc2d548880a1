"""The evaluation report."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from denoiser.evaluation.measures import DRAWS, Adapted, Draws, Measure, Quantised
from denoiser.files.outputs import unwritable, write_bytes
from denoiser.model.neighbours import QUERIES, SITUATIONS

SHOWN_LEVEL = 0.1
_UNFAMILIAR = "all but the in-domain set come from sources the network never saw"
_OWN = "they are your own, and whether the network was trained on text like theirs is not known here"
_AUTOENCODER = (
    "*autoencoder* is a plain denoising autoencoder (384-256-128-256-384, ReLU, noise 0.1) trained on the same text; "
)
_FITTED = (
    " How far the network is trusted was fitted on the development text named in the manifest, which is in none of "
    "these sets."
)


@dataclass(frozen=True)
class Measured:
    """What was found of sets, whose names and sizes are in `sizes`; `own` ones are the user's."""

    sizes: dict[str, int]
    own: bool
    measures: list[Measure]
    draws: Sequence[Draws]
    adapted: Sequence[Adapted]
    quantised: Sequence[Quantised]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _head(*cells: str) -> list[str]:
    return [_row(*cells), _row(*("---" for _ in cells))]


def _overlap_cells(m: Measure) -> list[str]:
    return [f"{m.overlap[s]:.3f} ({m.interval[s][0]:.3f}–{m.interval[s][1]:.3f})" for s in SITUATIONS]


def _methods_table(measures: list[Measure], domain: str) -> list[str]:
    lines = _head("method", "mse", "cosine", "Spearman", *(f"overlap, {s}" for s in SITUATIONS))
    for m in measures:
        if m.domain == domain and m.level == SHOWN_LEVEL:
            lines.append(_row(m.method, f"{m.mse:.5f}", f"{m.cosine:.3f}", f"{m.spearman:.3f}", *_overlap_cells(m)))
    return lines


def _times(before: Sequence[float], after: Sequence[float]) -> str:
    """How many times as much after as before, on average, with the least and the most of one draw."""
    if min(before) == 0:
        return "none without denoising"
    times = [a / b for b, a in zip(before, after, strict=True)]
    return f"{mean(after) / mean(before):.2f} ({min(times):.2f}–{max(times):.2f})"


def _draws_section(found: Sequence[Draws]) -> list[str]:
    lines = _head("set", *(f"{s}: identity → neighbours" for s in SITUATIONS), "both, times identity")
    for d in found:
        cells = (f"{mean(d.before[s]):.3f} → {mean(d.after[s]):.3f}" for s in SITUATIONS)
        lines.append(_row(d.domain, *cells, _times(d.before["both"], d.after["both"])))
    return [
        f"## Means of {DRAWS} draws of noise",
        "",
        f"At noise level {SHOWN_LEVEL}; other tables are of the first draw. In brackets, the least and most of one.",
        "",
        *lines,
        "",
    ]


def _sweep_table(measures: list[Measure], method: str) -> list[str]:
    lines = _head("set", "noise level", *(f"{s}: identity → {method}" for s in SITUATIONS))
    identity = {(m.domain, m.level): m for m in measures if m.method == "identity"}
    for m in measures:
        if m.method == method:
            before = identity[m.domain, m.level].overlap
            cells = (
                f"{before[s]:.3f} → {m.overlap[s]:.3f} ({m.gain[s]:+.3f} ± {m.gain_error[s]:.3f})" for s in SITUATIONS
            )
            lines.append(_row(m.domain, f"{m.level:g}", *cells))
    return lines


def _sweep_section(measures: list[Measure], *, own: bool) -> list[str]:
    return [
        "## Mode neighbours against doing nothing, all noise levels",
        "",
        *_sweep_table(measures, "neighbours"),
        "",
        f"Gains are paired differences ± one standard error over queries.{'' if own else _FITTED}",
        "",
        f"Worst case: {worst_case(measures, 'neighbours')}.",
        "",
    ]


def _adapted_table(adapted: Sequence[Adapted]) -> list[str]:
    lines = _head("set", "adapted to", "rows", *(f"{s}: identity → neighbours → adapted" for s in SITUATIONS))
    sets = list(dict.fromkeys(a.domain for a in adapted))
    for a in sorted(adapted, key=lambda a: sets.index(a.domain)):
        cells = (f"{' → '.join(f'{o:.3f}' for o in a.overlap[s])} (± {a.gain_error[s]:.3f})" for s in SITUATIONS)
        lines.append(_row(a.domain, a.learnt_from, str(a.rows), *cells))
    return lines


def _adapted_section(measures: list[Measure], adapted: Sequence[Adapted]) -> list[str]:
    return [
        "## Adapted to a store",
        "",
        f"At noise level {SHOWN_LEVEL}. *noisy vectors*: mode neighbours of `denoise --adapt`, which sees the noisy "
        "vectors of the store and nothing else; stores of several sizes. *its clean text*: the network trained on, as "
        "a training job does, with the clean text of the whole set, and measured on it, whose vectors it recognises. "
        "*clean text like it*: trained on with one half of the set, and measured on the other. *clean text of* another "
        "set: trained on that, to see what is lost on text that a job has nothing of.",
        "",
        *_adapted_table(adapted),
        "",
        "Adapted to the noisy vectors of the whole set, at all noise levels:",
        "",
        *_sweep_table(measures, "adapted"),
        "",
        f"Worst case: {worst_case(measures, 'adapted')}.",
        "",
    ]


def _quantised_table(quantised: Sequence[Quantised]) -> list[str]:
    lines = _head("set", "kept as", "estimated level", *(f"{s}: before → after" for s in SITUATIONS))
    for q in quantised:
        cells = (f"{q.before[s]:.3f} → {q.after[s]:.3f} (± {q.gain_error[s]:.3f})" for s in SITUATIONS)
        lines.append(_row(q.domain, q.kind, f"{q.level:.3f}", *cells))
    return lines


def _quantised_section(quantised: Sequence[Quantised]) -> list[str]:
    return [
        "## Quantised vectors",
        "",
        *_quantised_table(quantised),
        "",
        "Binary vectors are scaled to length sqrt(pi/2), where what was lost looks like added noise. The level is "
        "estimated from the vectors. Int8 loses too little to count as noise.",
        "",
    ]


def worst_case(measures: list[Measure], method: str) -> str:
    """The smallest gain of a method over identity in any situation, set and level, in words."""
    m, s = min(
        ((m, s) for m in measures if m.method == method for s in SITUATIONS),
        key=lambda pair: pair[0].gain[pair[1]],
    )
    return f"{m.gain[s]:+.3f} ± {m.gain_error[s]:.3f} ({s}, {m.domain}, noise level {m.level:g})"


def _queries(sizes: Collection[int]) -> str:
    """How many queries sets of these sizes have, in words."""
    fewest, most = (min(QUERIES, of(sizes)) for of in (min, max))
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"


def _trained_on(manifest: dict[str, Any]) -> str:
    sentences = manifest.get("training_sentences")
    crossed = f" and {manifest['crossed']:,} crossed from them" if manifest.get("crossed") else ""
    foreign = (
        f", with {manifest['foreign_sentences']:,} that are no English prose"
        if manifest.get("foreign_sentences")
        else ""
    )
    start = f", going on from {manifest['start'][:12]}" if manifest.get("start") else ""
    return f"on {sentences:,} sentences{crossed}{foreign}{start}" if sentences else "elsewhere"


def markdown(found: Measured, manifest: dict[str, Any]) -> str:
    """The report as Markdown."""
    sets = ", ".join(f"{domain} ({size:,})" for domain, size in found.sizes.items())
    lines = [
        "# Evaluation of the denoiser",
        "",
        f"Checkpoint {manifest['sha256'][:12]}, trained {_trained_on(manifest)}. "
        f"Sets and their sizes: {sets}; {_OWN if found.own else _UNFAMILIAR}.",
        "",
        f"Overlap is neighbour overlap@10 of {_queries(found.sizes.values())} queries, with a 95% bootstrap interval "
        "over queries: *query* is a noisy query in a clean store, *store* a clean query in a noisy store, *both* noisy "
        f"in noisy. The noise level is known to every method. {'' if found.own else _AUTOENCODER}*reconstruct* and "
        "*neighbours* are the service's two modes, with the rows of a set given together; *adapted* is mode neighbours "
        "of `denoise --adapt`, adapted to the noisy vectors themselves.",
    ]
    for domain in found.sizes:
        lines += ["", f"## {domain}, noise level {SHOWN_LEVEL}", "", *_methods_table(found.measures, domain)]
    lines += ["", *_draws_section(found.draws), *_sweep_section(found.measures, own=found.own)]
    lines += _adapted_section(found.measures, found.adapted)
    return "\n".join([*lines, *_quantised_section(found.quantised)])


def write(text: str, figures: list[dict[str, object]], markdown_path: Path | None, json_path: Path | None) -> None:
    """Markdown to a file or standard output, figures to a JSON file when one is named. Raises FileError."""
    if markdown_path:
        write_bytes(markdown_path, text.encode())
    else:
        try:
            print(text, end="", flush=True)
        except OSError as error:
            raise unwritable(Path("standard output"), error) from error
    if json_path:
        write_bytes(json_path, f"{json.dumps(figures, indent=1)}\n".encode())
