"""What `train` and `evaluate` do, in order; the command line only names the options."""

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from denoiser import checkpoint, data, report
from denoiser.corpus import Corpus, from_files, from_packages
from denoiser.denoise import Denoiser
from denoiser.encoder import Embeddings, MiniLM, find_model
from denoiser.evaluation import LEVELS, Measure, as_json, measure, measure_quantised, methods_of
from denoiser.network import RANKING_LEVELS, Network
from denoiser.progress import say, tracking
from denoiser.ranking import choose_shares, fit_ranking
from denoiser.sources import IN_DOMAIN
from denoiser.training import Recipe, train

# For a network of the user's own text, which comes with no other text to choose on.
BLEND = {"levels": [0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3], "shares": [0.1, 0.25, 0.5, 0.5, 0.3, 0.1, 0.03]}
FIGURES_LEVEL = 0.1


def _corpus(texts: list[Path], cache: Path, per_source: int, seed: int) -> Corpus:
    return from_files(texts, seed) if texts else from_packages(cache, per_source, seed, say)


def _prepare(corpus: Corpus, cache: Path) -> data.Data:
    with tracking("encoding", data.count_texts(corpus)) as advance:
        return data.prepare(corpus, MiniLM(find_model()), cache, lambda done: advance(done, "sentences"))


def _train(embeddings: Embeddings, recipe: Recipe) -> Network:
    last = 0
    with tracking("training", recipe.steps) as advance:

        def progress(step: int, loss: float) -> None:
            nonlocal last
            advance(step - last, f"steps, loss {loss:.3f}")
            last = step

        return train(embeddings, recipe, progress)


def _trust(network: Network, development: dict[str, Embeddings], seed: int) -> dict[str, list[float]]:
    """Fit how far mode neighbours trusts the network on unfamiliar text; returns the blend."""
    if not development:
        return BLEND
    stores = list(development.values())
    with tracking("weighing", 2 * len(RANKING_LEVELS)) as advance:
        fit_ranking(network, stores, seed, lambda: advance(1, "noise levels"))
        return choose_shares(network, stores, seed, lambda: advance(1, "noise levels"))


def train_checkpoint(output: Path, texts: list[Path], cache: Path, per_source: int, recipe: Recipe) -> dict[str, Any]:
    """Train on text files (or on Debian packages when there are none) and write a checkpoint; returns its manifest."""
    prepared = _prepare(_corpus(texts, cache, per_source, recipe.seed), cache)
    network = _train(prepared.training, recipe)
    blend = _trust(network, prepared.development, recipe.seed)
    denoiser = Denoiser.from_checkpoint(network, {"blend": blend})
    methods = methods_of(denoiser)
    figures = [
        m for d, clean in prepared.evaluation.items() for m in measure(d, clean, FIGURES_LEVEL, methods, recipe.seed)
    ]
    manifest = {
        "encoder": "sentence-transformers/all-MiniLM-L6-v2",
        "recipe": asdict(recipe),
        "blend": blend,
        "training_sentences": len(prepared.training),
        "sources": prepared.sources,
        "made_with": {"torch": torch.__version__, "machine": platform.machine(), "threads": torch.get_num_threads()},
        "figures": as_json(figures),
    }
    return checkpoint.save(output, network, manifest)


def evaluate_checkpoint(path: Path, cache: Path, per_source: int, markdown: Path | None, figures: Path | None) -> None:
    """Measure a checkpoint on the held-out sets at every noise level, and report."""
    network, manifest = checkpoint.load(path)
    seed = manifest["recipe"]["seed"]
    prepared = _prepare(_corpus([], cache, per_source, seed), cache)
    autoencoder = report.train_autoencoder(prepared.training, seed)
    denoiser = Denoiser.from_checkpoint(network, manifest)
    methods = methods_of(denoiser, {"autoencoder": autoencoder})
    measures: list[Measure] = []
    with tracking("evaluating", len(LEVELS) * len(prepared.evaluation)) as advance:
        for domain, clean in prepared.evaluation.items():
            for level in LEVELS:
                measures.extend(measure(domain, clean, level, methods, seed))
                advance(1, "sets and levels")
    quantised = [q for d, clean in prepared.evaluation.items() for q in measure_quantised(d, clean, denoiser)]
    text = report.markdown(measures, {d: len(e) for d, e in prepared.evaluation.items()}, manifest, quantised)
    report.write(text, as_json(measures), markdown, figures)
    say(f"measured {len(prepared.evaluation)} sets ({IN_DOMAIN} and unfamiliar)")
