"""What `train`, `denoise` and `evaluate` do, in order; the command line only names the options."""

import contextlib
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from denoiser.errors import CorpusError, DenoiserError
from denoiser.evaluation import report
from denoiser.evaluation.measures import (
    LEVELS,
    Adapted,
    Draws,
    Measure,
    as_json,
    measure,
    measure_adapted,
    measure_draws,
    measure_quantised,
)
from denoiser.evaluation.methods import Method, methods_of, train_autoencoder
from denoiser.evaluation.own import own_sets
from denoiser.evaluation.plots import check_plots, draw_sweep
from denoiser.evaluation.report import Measured
from denoiser.files.batch import Options, denoise_file
from denoiser.files.outputs import try_file
from denoiser.model import checkpoint
from denoiser.model.adaptation import SMALLEST_STORE, Adaptation
from denoiser.model.denoise import Denoiser, text_seed
from denoiser.model.encoder import Embeddings, MiniLM, find_model
from denoiser.model.neighbours import FEWEST as FEWEST_MEASURED
from denoiser.model.network import RANKING_LEVELS, Network
from denoiser.model.ordering import share_of_steps
from denoiser.model.ranking import STEPS, TOLD, choose_shares, fit_ranking
from denoiser.model.training import Recipe, fine_tuning, train
from denoiser.progress import say, tracking
from denoiser.text import PER_SOURCE
from denoiser.text.corpus import Corpus, from_files, from_packages, to_evaluate, with_crossed
from denoiser.text.embeddings import Data, count_texts, prepare
from denoiser.text.sources import IN_DOMAIN

FITTED_EVERY = 64  # steps of training, one of fitting; so a short training is short as a whole


@dataclass(frozen=True)
class Text:
    """What to train on of packages: `per_source` sentences of each times its weight, and `crossed` texts made of them.

    Unfamiliar text is measured on too if `measured` says so; otherwise only held-out sentences like the training text.
    """

    per_source: int = PER_SOURCE
    crossed: int = 0
    measured: bool = False


def _prepare(corpus: Corpus, cache: Path, device: str = "cpu") -> Data:
    with tracking("encoding", count_texts(corpus)) as advance:
        return prepare(corpus, MiniLM(find_model(), device), cache, lambda done: advance(done, "sentences"))


@contextlib.contextmanager
def _training(steps: int) -> Iterator[Callable[[int, float], None]]:
    """Takes the number of steps done and the loss, and shows them."""
    last = 0
    with tracking("training", steps) as advance:

        def progress(step: int, loss: float) -> None:
            nonlocal last
            advance(step - last, f"steps, loss {loss:.3f}")
            last = step

        yield progress


def _trust(network: Network, data: Data, recipe: Recipe) -> dict[str, Any]:
    """Fit how far mode neighbours trusts the network on unfamiliar text; returns the blend."""
    texts = [list(sets.values()) for sets in (data.development, *data.foreign_development.values())]
    seed, steps = recipe.seed, min(STEPS, recipe.steps // FITTED_EVERY)
    with tracking("weighing", len(TOLD) + (len(texts) + 1) * len(RANKING_LEVELS)) as advance:
        told = fit_ranking(network, texts, seed, lambda: advance(1, "fits"), steps)
        shares = choose_shares(network, texts, told, seed, lambda: advance(1, "fits"))
    return {"levels": list(RANKING_LEVELS), "shares": shares, "told": told}


def _check_device(device: str) -> None:
    """Raises DenoiserError for a GPU where there is none."""
    if device != "cpu" and not torch.cuda.is_available():
        raise DenoiserError(f"device: {device}, but PyTorch sees no GPU here; take cpu")


def _check_measurable(data: Data) -> None:
    """Raises CorpusError for too little held-out text that is unlike what is learnt."""
    if (unlike := len(data.evaluation[IN_DOMAIN])) < FEWEST_MEASURED:
        raise CorpusError(
            f"only {unlike} of the sentences held out to measure on are unlike the others; at least {FEWEST_MEASURED} "
            "are needed: take more varied text"
        )


def _made_with(device: str) -> dict[str, Any]:
    gpu = {} if device == "cpu" else {"gpu": torch.cuda.get_device_name(device)}
    threads = torch.get_num_threads()
    return {"torch": torch.__version__, "machine": platform.machine(), "threads": threads, **gpu}


def train_new(output: Path, text: Text, cache: Path, recipe: Recipe) -> dict[str, Any]:
    """Train a network on text of packages and write its checkpoint; returns its manifest."""
    checkpoint.check_target(output)
    _check_device(recipe.device)
    corpus = with_crossed(from_packages(cache, text.per_source, recipe.seed, say), text.crossed, recipe.seed)
    if not text.measured:
        corpus = replace(corpus, evaluation={IN_DOMAIN: corpus.evaluation[IN_DOMAIN]})
    prepared = _prepare(corpus, cache, recipe.device)
    _check_measurable(prepared)
    recipe = replace(recipe, ordering=share_of_steps(len(prepared.training)))
    with _training(recipe.steps) as progress:
        network = train(prepared.training, recipe, progress, foreign=list(prepared.foreign.values()))
    blend = _trust(network, prepared, recipe)
    manifest = {
        "encoder": "sentence-transformers/all-MiniLM-L6-v2",
        "recipe": asdict(recipe),
        "per_source": text.per_source,
        "blend": blend,
        "training_sentences": len(prepared.training) - text.crossed,
        "crossed": text.crossed,
        "foreign_sentences": sum(map(len, prepared.foreign.values())),
        "sources": prepared.sources,
        **({"left_out": prepared.left_out} if text.measured else {}),
        "made_with": _made_with(recipe.device),
        "figures": _figures(Denoiser.from_checkpoint(network, {"blend": blend}), prepared, recipe.seed),
    }
    return checkpoint.save(output, network, manifest)


def train_further(output: Path, files: list[Path], start: Path, cache: Path, recipe: Recipe) -> dict[str, Any]:
    """Train a checkpoint's network on the user's own text too, as a job of the service does, for as many steps as the
    text is worth and the recipe allows; write its checkpoint and return its manifest.
    """
    checkpoint.check_target(output)
    begun = Denoiser.load(start).trainable()
    prepared = _prepare(from_files(files, recipe.seed), cache)
    _check_measurable(prepared)
    recipe = replace(fine_tuning(begun.network, len(prepared.training), recipe.steps), seed=recipe.seed)
    with _training(recipe.steps) as progress:
        made = begun.trained(prepared.training, recipe, progress)
    manifest = {
        **made.manifest,
        "sources": prepared.sources,
        "made_with": _made_with(recipe.device),
        "figures": _figures(made, prepared, recipe.seed),
    }
    return checkpoint.save(output, made.network, manifest)


def _figures(denoiser: Denoiser, data: Data, seed: int) -> list[dict[str, Any]]:
    methods, level = methods_of(denoiser), report.SHOWN_LEVEL
    return as_json([of for name, clean in data.evaluation.items() for of in measure(name, clean, level, methods, seed)])


@dataclass(frozen=True)
class Outputs:
    """Where a report goes; the tables to standard output when no file is named."""

    markdown: Path | None = None
    figures: Path | None = None
    plot: Path | None = None

    def check(self) -> None:
        """Raises DenoiserError for one that cannot be written."""
        if self.plot:
            check_plots()
        for path in filter(None, (self.markdown, self.figures, self.plot)):
            try_file(path)


def denoise_vectors(source: Path, target: Path, model: Path, **options: Any) -> None:
    """Denoise a file of vectors with a checkpoint, with progress. Raises FileError, CheckpointError."""
    network, manifest = checkpoint.load(model)
    denoiser = Denoiser.from_checkpoint(network, manifest)
    with contextlib.ExitStack() as bars:

        def begin(what: str, rows: int) -> Callable[[int], None]:
            bars.close()
            advance = bars.enter_context(tracking(what, rows))
            return lambda done: advance(done, "vectors")

        chosen = Options(manifest["sha256"], **options)
        done = denoise_file(source, target, denoiser, chosen, begin)
    if chosen.adapt:
        say(_describe(done.adaptation))
    say(f"wrote {target}: {done.rows} vectors")


def _describe(adaptation: Adaptation | None) -> str:
    if adaptation is None:
        return f"not adapted: fewer than {SMALLEST_STORE} different vectors carry noise of one level"
    return f"adapted to {adaptation.rows} vectors of noise level {adaptation.level:.3f}"


def evaluate_own(path: Path, texts: list[Path], vectors: list[Path], column: str, outputs: Outputs) -> None:
    """Measure a checkpoint on the user's own text and clean vectors at every noise level, and report."""
    outputs.check()
    denoiser = Denoiser.load(path)
    sets = own_sets(texts, vectors, column, denoiser.width)
    _report(sets, denoiser, methods_of(denoiser), outputs, own=True)
    say(f"measured {', '.join(sets)}")


def _report(
    sets: dict[str, Embeddings],
    denoiser: Denoiser,
    methods: dict[str, Method],
    outputs: Outputs,
    *,
    own: bool,
) -> None:
    seed = text_seed(denoiser.manifest)
    measures: list[Measure] = []
    with tracking("evaluating", len(LEVELS) * len(sets)) as advance:
        for domain, clean in sets.items():
            for level in LEVELS:
                measures.extend(measure(domain, clean, level, methods, seed))
                advance(1, "sets and levels")
    draws: list[Draws] = []
    with tracking("drawing noise", len(sets)) as advance:
        for domain, clean in sets.items():
            draws.append(measure_draws(domain, clean, report.SHOWN_LEVEL, methods["neighbours"], seed))
            advance(1, "sets")
    adapted: list[Adapted] = []
    with tracking("adapting", len(sets)) as advance:
        for domain in sets:
            adapted.extend(measure_adapted(domain, sets, report.SHOWN_LEVEL, denoiser, seed))
            advance(1, "sets")
    quantised = [found for domain, clean in sets.items() for found in measure_quantised(domain, clean, denoiser)]
    measured = Measured({d: len(e) for d, e in sets.items()}, own, measures, draws, adapted, quantised)
    report.write(report.markdown(measured, denoiser.manifest), as_json(measures), outputs.markdown, outputs.figures)
    if outputs.plot:
        draw_sweep(measures, outputs.plot)


def held_out_text(manifest: dict[str, Any], cache: Path) -> Corpus:
    """The text to measure a checkpoint on; with all training text, where its manifest does not say what is near that.

    Tells of packages that have changed since.
    """
    seed = text_seed(manifest)
    corpus = from_packages(cache, manifest.get("per_source") or PER_SOURCE, seed, say)
    if "left_out" not in manifest:
        return replace(corpus, development={}, foreign_development={})
    now = {source["package"]: source["version"] for source in corpus.sources}
    then = {source["package"]: source["version"] for source in manifest["sources"] if "package" in source}
    for package in (package for package in now if then.get(package, now[package]) != now[package]):
        say(
            f"{package} was {then[package]} in training and is {now[package]}: "
            f"the {IN_DOMAIN} set may have sentences that were trained on"
        )
    return to_evaluate(corpus, manifest["left_out"], seed)


def evaluate_checkpoint(path: Path, cache: Path, outputs: Outputs) -> None:
    """Measure a checkpoint on the held-out sets at every noise level, and report."""
    outputs.check()
    network, manifest = checkpoint.load(path)
    prepared = _prepare(held_out_text(manifest, cache), cache)
    autoencoder = train_autoencoder(prepared.training, text_seed(manifest))
    denoiser = Denoiser.from_checkpoint(network, manifest)
    methods = methods_of(denoiser, {"autoencoder": autoencoder})
    _report(prepared.evaluation, denoiser, methods, outputs, own=False)
    say(f"measured {len(prepared.evaluation)} sets ({IN_DOMAIN} and unfamiliar)")
