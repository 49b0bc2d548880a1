"""How good denoised embeddings are: squared error, cosine, and above all neighbours found again, with intervals.

Every method sees the same noise.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from denoiser.evaluation.methods import Method
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import Embeddings
from denoiser.model.neighbours import SITUATIONS, TrueNeighbours, standard_error, unit
from denoiser.model.noise import add_noise, estimate_levels, keep_signs, round_to_int8
from denoiser.vectors import closeness

LEVELS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
STORE_SIZES = (300, 1000)
FEWEST_TRAINED_ON = 200
DRAWS = 8  # of noise; *both* differs by some 5% from one to another
_PAIRS = 20_000
_RESAMPLES = 500


@dataclass(frozen=True)
class Measure:
    """One method on one set at one noise level; gains are over identity, with their standard errors."""

    domain: str
    level: float
    method: str
    mse: float
    cosine: float
    spearman: float
    overlap: dict[str, float]
    interval: dict[str, tuple[float, float]]
    gain: dict[str, float]
    gain_error: dict[str, float]


@dataclass(frozen=True)
class Draws:
    """Overlaps of one set by situation, before and after denoising, each with several draws of noise: [draws]."""

    domain: str
    before: dict[str, list[float]]
    after: dict[str, list[float]]


@dataclass(frozen=True)
class Adapted:
    """Overlaps of a set before, in mode neighbours, and adapted; `learnt_from` says from what, and `rows` how many.

    `gain_error` is the standard error of what adapted gains over before.
    """

    domain: str
    learnt_from: str
    rows: int
    overlap: dict[str, tuple[float, float, float]]
    gain_error: dict[str, float]


@dataclass(frozen=True)
class Quantised:
    """Overlap of one set after quantisation and after denoising at the estimated level, by situation."""

    domain: str
    kind: str
    level: float
    before: dict[str, float]
    after: dict[str, float]
    gain_error: dict[str, float]


def spearman(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Rank correlation of two series [n]; 0 when one of them is constant."""
    ranks = [series.argsort(kind="stable").argsort(kind="stable") for series in (first, second)]
    constant = np.ptp(first) == 0 or np.ptp(second) == 0
    return 0.0 if constant else float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _similarities(vectors: Tensor, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return (vectors[pairs[0]] * vectors[pairs[1]]).sum(1).double().numpy()


def _interval(values: npt.NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float]:
    means = values[rng.integers(len(values), size=(_RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def measure(domain: str, clean: Embeddings, level: float, methods: dict[str, Method], seed: int) -> Iterator[Measure]:
    """Every method on clean embeddings [n, width] with noise of one level; intervals are 95% bootstrap over queries."""
    noisy = add_noise(clean, level, seed)
    rng = np.random.default_rng(seed)
    pairs = rng.integers(len(clean), size=(2, _PAIRS))
    true_similarities = _similarities(unit(clean), pairs)
    true = TrueNeighbours(clean)
    base = true.overlaps(noisy)
    for name, method in methods.items():
        output = method(noisy, level)
        found = true.overlaps(output)
        errors, cosines = closeness(output, clean)
        gains = {s: found[s] - base[s] for s in SITUATIONS}
        yield Measure(
            domain=domain,
            level=level,
            method=name,
            mse=float(errors.mean()),
            cosine=float(cosines.mean()),
            spearman=spearman(_similarities(unit(output), pairs), true_similarities),
            overlap={s: float(found[s].mean()) for s in SITUATIONS},
            interval={s: _interval(found[s], rng) for s in SITUATIONS},
            gain={s: float(gains[s].mean()) for s in SITUATIONS},
            gain_error={s: standard_error(gains[s]) for s in SITUATIONS},
        )


def measure_draws(domain: str, clean: Embeddings, level: float, method: Method, seed: int) -> Draws:
    """A method on clean embeddings [n, width] with eight draws of noise of one level, the first `measure`'s."""
    true = TrueNeighbours(clean)
    draws = Draws(domain, {s: [] for s in SITUATIONS}, {s: [] for s in SITUATIONS})
    for draw in range(DRAWS):
        noisy = add_noise(clean, level, seed + draw)
        for overlaps, vectors in ((draws.before, noisy), (draws.after, method(noisy, level))):
            for situation, found in true.overlaps(vectors).items():
                overlaps[situation].append(float(found.mean()))
    return draws


def _compare(
    clean: Embeddings, noisy: Embeddings, level: float, plain: Denoiser, own: Denoiser
) -> tuple[dict[str, tuple[float, float, float]], dict[str, float]]:
    """Overlaps before, with one denoiser and with the other, and the standard error of the last's gain."""
    levels = np.full(len(clean), level)
    vectors = (noisy, plain.denoise(noisy, levels), own.denoise(noisy, levels))
    before, between, after = map(TrueNeighbours(clean).overlaps, vectors)
    means = {s: (float(before[s].mean()), float(between[s].mean()), float(after[s].mean())) for s in SITUATIONS}
    return means, {s: standard_error(after[s] - before[s]) for s in SITUATIONS}


def measure_adapted(
    domain: str, sets: dict[str, Embeddings], level: float, denoiser: Denoiser, seed: int
) -> Iterator[Adapted]:
    """One of the sets, adapted to the noisy vectors of stores of several sizes; trained on its own text; trained on one
    half of it and measured on the other. Then the other sets, with the network trained on the text of this one.

    Sets of fewer than 400 are not trained on.
    """
    for measured, learnt_from, store, own in _adaptations(domain, sets, level, denoiser, seed):
        noisy = add_noise(store, level, seed)
        yield Adapted(measured, learnt_from, len(store), *_compare(store, noisy, level, denoiser, own))


def _adaptations(
    domain: str, sets: dict[str, Embeddings], level: float, denoiser: Denoiser, seed: int
) -> Iterator[tuple[str, str, Embeddings, Denoiser]]:
    """Name of the set, what was learnt from, the clean store to measure on, and the denoiser that learnt."""
    clean = sets[domain]
    for size in (*(s for s in STORE_SIZES if s < len(clean)), len(clean)):
        store = clean[:size]
        yield domain, "noisy vectors", store, denoiser.adapted(add_noise(store, level, seed), level)
    half = len(clean) // 2
    if half < FEWEST_TRAINED_ON:
        return
    own = denoiser.trained(clean)
    yield domain, "its clean text", clean, own
    yield domain, "clean text like it", clean[half:], denoiser.trained(clean[:half])
    for other, vectors in sets.items():
        if other != domain:
            yield other, f"clean text of {domain}", vectors, own


def measure_quantised(domain: str, clean: Embeddings, denoiser: Denoiser) -> Iterator[Quantised]:
    """Clean embeddings [n, width] kept as int8 and as bits, repaired in mode neighbours at the estimated level."""
    true = TrueNeighbours(clean)
    for kind, quantise in (("int8", round_to_int8), ("binary", keep_signs)):
        quantised = quantise(clean)
        levels = estimate_levels(quantised)
        before, after = map(true.overlaps, (quantised, denoiser.denoise(quantised, levels)))
        yield Quantised(
            domain=domain,
            kind=kind,
            level=float(np.median(levels)),
            before={s: float(before[s].mean()) for s in SITUATIONS},
            after={s: float(after[s].mean()) for s in SITUATIONS},
            gain_error={s: standard_error(after[s] - before[s]) for s in SITUATIONS},
        )


def as_json(measures: list[Measure]) -> list[dict[str, object]]:
    """Plain dictionaries of measures."""
    return [asdict(m) for m in measures]
