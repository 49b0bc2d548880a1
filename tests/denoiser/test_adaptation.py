"""Adapting to a store of noisy vectors: what it must gain, and what it must leave as it is."""

import sys
from dataclasses import replace
from pathlib import Path
from subprocess import run as run_command

import numpy as np
import pytest

from denoiser.files.batch import Options, denoise_file
from denoiser.files.formats import CHUNK
from denoiser.model.adaptation import SMALLEST_STORE
from denoiser.model.denoise import NEARER, Denoiser
from denoiser.model.encoder import Embeddings
from denoiser.model.neighbours import SITUATIONS, TrueNeighbours
from denoiser.model.noise import add_noise

LEVEL = 0.1


class CutOffError(Exception):
    pass


@pytest.fixture(scope="module")
def store(clean: Embeddings) -> Embeddings:
    """Unit vectors between those of everyday sentences: a large store about few things."""
    rng = np.random.default_rng(2)
    first, second = clean[rng.integers(len(clean), size=(2, 3000))]
    between = first + rng.uniform(0, 1, (3000, 1)).astype(np.float32) * second
    unit: Embeddings = between / np.linalg.norm(between, axis=1, keepdims=True)
    return unit


@pytest.fixture(scope="module")
def noisy(store: Embeddings) -> Embeddings:
    return add_noise(store, LEVEL, 1)


@pytest.fixture(scope="module")
def adapted(denoiser: Denoiser, noisy: Embeddings) -> Denoiser:
    return denoiser.adapted(noisy)


def test_more_neighbours_are_found_where_everything_is_noisy(
    denoiser: Denoiser, adapted: Denoiser, store: Embeddings, noisy: Embeddings
) -> None:
    alone = denoiser.denoise(noisy, together=False)
    before, plain, after = map(TrueNeighbours(store).overlaps, (noisy, alone, adapted.denoise(noisy)))
    assert after["both"].mean() > plain["both"].mean() > before["both"].mean()


def test_the_squared_error_falls(denoiser: Denoiser, adapted: Denoiser, store: Embeddings, noisy: Embeddings) -> None:
    plain, own = (
        ((d.denoise(noisy, mode="reconstruct", together=False) - store) ** 2).mean() for d in (denoiser, adapted)
    )
    assert own < 0.95 * plain


def test_it_learns_from_the_noisy_vectors_how_noisy_they_are(adapted: Denoiser, noisy: Embeddings) -> None:
    assert adapted.adaptation is not None
    assert adapted.adaptation.rows == len(noisy)
    assert adapted.adaptation.level == pytest.approx(LEVEL, rel=0.02)
    assert adapted.adaptation.matrix.any()


@pytest.mark.parametrize("mode", ["neighbours", "reconstruct"])
def test_vectors_without_noise_come_back(adapted: Denoiser, store: Embeddings, mode: str) -> None:
    same = adapted.denoise(store, mode="reconstruct" if mode == "reconstruct" else "neighbours")
    np.testing.assert_array_equal(same, store)


def test_the_blend_stays_and_the_model_is_trusted_more(
    denoiser: Denoiser, adapted: Denoiser, store: Embeddings, noisy: Embeddings
) -> None:
    assert adapted.adaptation is not None
    assert adapted.blend == denoiser.blend
    assert 0 < adapted.adaptation.reliance <= 1
    wary = Denoiser(denoiser.network, denoiser.blend, adaptation=replace(adapted.adaptation, reliance=0.0))
    errors = [((d.denoise(noisy) - store) ** 2).mean() for d in (adapted, wary)]
    assert errors[0] < errors[1]


def test_a_model_is_trusted_no_less_than_its_checkpoint_says(denoiser: Denoiser, noisy: Embeddings) -> None:
    blend = {**denoiser.manifest["blend"], "nearer": 2 * NEARER}
    more = Denoiser.from_checkpoint(denoiser.network, {**denoiser.manifest, "blend": blend})
    learnt = more.adapted(noisy[:300]).adaptation
    assert learnt is not None
    given, wary = (
        Denoiser(more.network, more.blend, adaptation=replace(learnt, reliance=reliance)).denoise(noisy[:50])
        for reliance in (1.0, 0.0)
    )
    np.testing.assert_array_equal(given, wary)


def strange_noise(kind: str, shape: tuple[int, ...]) -> Embeddings:
    """Noise of length LEVEL * sqrt(width) a row, but not alike along all axes, or partly the same in all rows."""
    rng = np.random.default_rng(4)
    noise = rng.standard_normal(shape, dtype=np.float32)
    if kind == "more in some numbers than in others":
        noise *= rng.uniform(0.3, 1.6, shape[1]).astype(np.float32)
    elif kind == "partly the same in all rows":
        noise += rng.standard_normal(shape[1], dtype=np.float32)
    elif kind == "more along some axes than along others":
        noise *= np.linspace(0.3, 1.6, shape[1], dtype=np.float32)
        noise = noise @ np.linalg.qr(rng.standard_normal((shape[1], shape[1]), dtype=np.float32))[0]
    scaled: Embeddings = LEVEL * noise / np.sqrt((noise**2).mean())
    return scaled


@pytest.mark.parametrize(
    "kind",
    [
        "more in some numbers than in others",
        "partly the same in all rows",
        "more along some axes than along others",
    ],
)
def test_noise_of_another_kind_is_not_taken_for_what_the_network_errs(
    denoiser: Denoiser, store: Embeddings, kind: str
) -> None:
    noisy = store + strange_noise(kind, store.shape)
    adapted = denoiser.adapted(noisy)
    assert adapted.adaptation is not None
    assert adapted.adaptation.reliance < 0.5
    alone, own = (
        ((d.denoise(noisy, mode="reconstruct", together=False) - store) ** 2).mean() for d in (denoiser, adapted)
    )
    assert own < 1.05 * alone


def test_copies_of_a_row_count_once_and_rows_of_other_noise_levels_not_at_all(
    denoiser: Denoiser, store: Embeddings, noisy: Embeddings
) -> None:
    rows = noisy[:300]
    others = add_noise(store[:100], 0.05, 5)
    mixed = denoiser.adapted_to([np.concatenate([rows, rows[:150], others]), rows * np.float32(3)]).adaptation
    alone = denoiser.adapted(rows).adaptation
    assert mixed is not None
    assert alone is not None
    assert mixed.rows == alone.rows == 300
    np.testing.assert_allclose(mixed.matrix, alone.matrix, atol=1e-4)
    assert denoiser.adapted(np.concatenate([rows[:150], rows[:150]])).adaptation is None


def test_vectors_of_another_noise_level_get_no_correction(
    denoiser: Denoiser, adapted: Denoiser, store: Embeddings
) -> None:
    other = add_noise(store[:50], 2 * LEVEL, 3)
    np.testing.assert_array_equal(
        adapted.denoise(other, mode="reconstruct"), denoiser.denoise(other, mode="reconstruct")
    )


@pytest.mark.parametrize("rows", [0, 1, SMALLEST_STORE - 1])
def test_too_few_noisy_vectors_change_nothing(denoiser: Denoiser, noisy: Embeddings, rows: int) -> None:
    same = denoiser.adapted(noisy[:rows])
    assert same.adaptation is None
    np.testing.assert_array_equal(same.denoise(noisy[:20]), denoiser.denoise(noisy[:20]))


def test_a_clean_store_is_left_alone(denoiser: Denoiser, store: Embeddings) -> None:
    assert denoiser.adapted(store).adaptation is None


def test_text_like_the_training_text_is_not_harmed(denoiser: Denoiser, clean: Embeddings) -> None:
    noisy = np.concatenate([add_noise(clean, LEVEL, seed) for seed in range(3)])
    own = denoiser.adapted(noisy)
    before, after = map(TrueNeighbours(clean).overlaps, (noisy[: len(clean)], own.denoise(noisy[: len(clean)])))
    for situation in SITUATIONS:
        gain = after[situation] - before[situation]
        assert gain.mean() >= -gain.std() / np.sqrt(len(gain)), situation


def test_a_file_is_adapted_to_in_a_first_pass(tmp_path: Path, adapted: Denoiser, noisy: Embeddings) -> None:
    np.save(tmp_path / "in.npy", noisy)
    files = [str(tmp_path / name) for name in ("in.npy", "out.npy")]
    command = [sys.executable, "-m", "denoiser", "denoise", *files, "--adapt"]
    done = run_command(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert f"adapting: {len(noisy)} of {len(noisy)} vectors" in done.stderr
    assert f"adapted to {len(noisy)} vectors of noise level 0.1" in done.stderr
    cosines = (np.load(tmp_path / "out.npy") * adapted.denoise(noisy)).sum(1)
    assert cosines.min() > 0.999  # products in bfloat16 where the processor has it; levels of each 2,048 rows


def test_a_run_that_was_cut_off_goes_on_with_the_same_adaptation(
    tmp_path: Path, denoiser: Denoiser, noisy: Embeddings
) -> None:
    source, target, whole = (tmp_path / name for name in ("in.npy", "out.npy", "whole.npy"))
    np.save(source, noisy)
    options = Options("model", adapt=True)
    found = denoise_file(source, whole, denoiser, options, lambda *_: lambda _: None)
    assert found.adaptation is not None

    def cut(what: str, done: int) -> None:
        if what == "denoising" and done:
            raise CutOffError

    with pytest.raises(CutOffError):
        denoise_file(source, target, denoiser, options, lambda what, _: lambda done: cut(what, done))
    seen: list[tuple[str, int]] = []
    denoise_file(source, target, denoiser, options, lambda what, _: lambda done: seen.append((what, done)))
    assert next(done for what, done in seen if what == "denoising") == CHUNK
    assert target.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.part*"))


def test_an_adapted_file_is_another_than_a_plain_one(tmp_path: Path, denoiser: Denoiser, noisy: Embeddings) -> None:
    np.save(tmp_path / "in.npy", noisy[: 2 * SMALLEST_STORE])
    for adapt in (False, True):
        denoise_file(
            tmp_path / "in.npy",
            tmp_path / "out.npy",
            denoiser,
            Options("model", adapt=adapt),
            lambda *_: lambda _: None,
        )
        out = np.load(tmp_path / "out.npy")
        assert np.isfinite(out).all()
        (tmp_path / f"{adapt}.npy").write_bytes((tmp_path / "out.npy").read_bytes())
    assert (tmp_path / "False.npy").read_bytes() != (tmp_path / "True.npy").read_bytes()
