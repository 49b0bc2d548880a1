"""What denoising promises, on real sentences that are in no training text."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from denoiser.model import Mode
from denoiser.model.adaptation import SMALLEST_STORE
from denoiser.model.denoise import Blend, Denoiser
from denoiser.model.encoder import Embeddings
from denoiser.model.neighbours import TrueNeighbours
from denoiser.model.noise import Level, add_noise, estimate_levels, keep_signs, levels_of, round_to_int8
from tests.denoiser.losses import assert_nothing_lost

WIDTH = 384


def repeated(clean: Embeddings, count: int) -> Embeddings:
    return np.repeat(clean, count, axis=0)


@pytest.mark.parametrize("level", [0.01, 0.02, 0.05, 0.1, 0.3])
def test_the_level_is_estimated_within_a_tenth_from_100_vectors(clean: Embeddings, level: float) -> None:
    for seed in range(5):
        estimated = estimate_levels(add_noise(clean[:100], level, seed))
        assert np.abs(np.median(estimated) / level - 1) < 0.1


@pytest.mark.parametrize("level", [0.02, 0.05, 0.1, 0.3])
def test_the_level_is_estimated_within_a_quarter_from_one_vector(clean: Embeddings, level: float) -> None:
    noisy = add_noise(clean, level, 1)
    alone = np.array([estimate_levels(row[None])[0] for row in noisy])
    assert np.mean(np.abs(alone / level - 1) < 0.25) > 0.9


def test_each_row_keeps_its_own_level(clean: Embeddings, noise: Embeddings) -> None:
    levels = np.resize([0.0, 0.1, 0.3], len(clean))
    estimated = estimate_levels(clean + levels[:, None].astype(np.float32) * noise)
    np.testing.assert_allclose(estimated, levels, rtol=0.2, atol=1e-6)


def test_rounded_clean_vectors_count_as_clean(clean: Embeddings) -> None:
    assert not estimate_levels(clean.astype(np.float16).astype(np.float32)).any()


@pytest.mark.parametrize("mode", ["neighbours", "reconstruct"])
def test_without_noise_nothing_changes(denoiser: Denoiser, clean: Embeddings, mode: Mode) -> None:
    same = denoiser.denoise(clean, mode=mode)
    np.testing.assert_array_equal(same, clean)


def test_almost_no_noise_changes_almost_nothing(denoiser: Denoiser, clean: Embeddings, noise: Embeddings) -> None:
    denoised = denoiser.denoise(clean + np.float32(0.001) * noise)
    assert (denoised * clean).sum(1).min() > 0.999


@pytest.mark.parametrize("level", [0.02, 0.05, 0.1, 0.2, 0.3])
def test_reconstruct_beats_the_noisy_vectors_zeros_and_wiener(
    denoiser: Denoiser, clean: Embeddings, level: float
) -> None:
    noisy = repeated(clean, 3) + add_noise(np.zeros((3 * len(clean), WIDTH), np.float32), level, 2)
    levels = np.full(len(noisy), level)
    error = ((denoiser.denoise(noisy, levels, "reconstruct") - repeated(clean, 3)) ** 2).mean()
    assert error < min(level**2, (clean**2).mean())


@pytest.mark.parametrize("level", [0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3])
def test_neighbours_is_never_below_doing_nothing(denoiser: Denoiser, clean: Embeddings, level: float) -> None:
    assert_nothing_lost(denoiser, clean, level, draws=4)


def test_neighbours_finds_clearly_more_where_everything_is_noisy(denoiser: Denoiser, clean: Embeddings) -> None:
    noisy = add_noise(clean, 0.1, 3)
    before, after = map(TrueNeighbours(clean).overlaps, (noisy, denoiser.denoise(noisy)))
    assert after["both"].mean() > 1.1 * before["both"].mean()


def test_neighbours_gives_unit_vectors(denoiser: Denoiser, clean: Embeddings) -> None:
    denoised = denoiser.denoise(add_noise(clean, 0.1, 1))
    np.testing.assert_allclose(np.linalg.norm(denoised, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("mode", ["neighbours", "reconstruct"])
def test_a_row_is_denoised_alike_alone_and_among_few_others(denoiser: Denoiser, clean: Embeddings, mode: Mode) -> None:
    assert len(clean) < SMALLEST_STORE
    noisy, levels = add_noise(clean, 0.1, 1), np.full(len(clean), 0.1)
    together, alone = denoiser.denoise(noisy, levels, mode), denoiser.denoise(noisy[3:4], levels[3:4], mode)
    np.testing.assert_allclose(together[3], alone[0], atol=1e-5)


def test_rows_of_a_store_help_each_other_unless_told_that_they_are_of_many(
    denoiser: Denoiser, clean: Embeddings
) -> None:
    store, levels = repeated(clean, 3), np.full(3 * len(clean), 0.1)
    noisy = add_noise(store, 0.1, 1)
    alone, together = (denoiser.denoise(noisy, levels, together=t) for t in (False, True))
    np.testing.assert_allclose(alone[3], denoiser.denoise(noisy[3:4], levels[3:4])[0], atol=1e-5)
    assert (together * store).sum(1).mean() > (alone * store).sum(1).mean() + 0.01
    alone, together = (denoiser.denoise(noisy, levels, "reconstruct", together=t) for t in (False, True))
    assert ((together - store) ** 2).mean() < 0.99 * ((alone - store) ** 2).mean()


@pytest.mark.parametrize("row", [0.0, 0.05, 0.2, 1.0])
def test_a_store_of_copies_of_one_row_is_denoised_like_that_row(denoiser: Denoiser, row: float) -> None:
    copies = np.full((SMALLEST_STORE, WIDTH), row, dtype=np.float32)
    copies[:, ::3] *= -1
    levels = np.full(SMALLEST_STORE, 0.1)
    denoised = denoiser.denoise(copies, levels)
    np.testing.assert_allclose(denoised, np.repeat(denoiser.denoise(copies[:1], levels[:1]), len(copies), 0), atol=1e-4)


def test_in_a_store_rows_without_noise_stay(denoiser: Denoiser, clean: Embeddings) -> None:
    store = repeated(clean, 3)
    levels = np.where(np.arange(len(store)) % 2, 0.1, 0.0)
    noisy = np.where(levels[:, None] > 0, add_noise(store, 0.1, 1), store)
    np.testing.assert_array_equal(denoiser.denoise(noisy, levels)[::2], store[::2])


def test_the_blend_is_linear_between_its_levels() -> None:
    blend = Blend((0.1, 0.2), ((0.5, 0.1), (0.3, 0.2)))
    expected = [[0.5, 0.3], [0.5, 0.3], [0.3, 0.25], [0.1, 0.2], [0.1, 0.2]]
    np.testing.assert_allclose(blend.at(np.array([0.0, 0.1, 0.15, 0.2, 9.0])), expected)


def test_a_manifest_with_the_same_shares_for_all_text_is_read() -> None:
    kept = {"levels": [0.1, 0.2], "shares": [0.5, 0.1]}
    assert Blend.of({"blend": kept}) == Blend.of({"blend": {**kept, "shares": [[0.5, 0.1]]}})


def test_for_search_the_network_is_told_a_part_of_the_noise_and_for_reconstruction_all_of_it(
    denoiser: Denoiser, clean: Embeddings
) -> None:
    noisy, levels, network = add_noise(clean, 0.1, 1), np.full(len(clean), 0.1), denoiser.network
    half = Denoiser(network, Blend((0.1,), ((1.0,),), told=0.5))
    vectors, level = torch.from_numpy(noisy), torch.full((len(clean), 1), 0.1)
    with torch.inference_mode():
        expected = network.blend(vectors, network(vectors, 0.5 * level), level, torch.ones_like(level)).numpy()
        estimate = network(vectors, level).numpy()
    np.testing.assert_allclose(half.denoise(noisy, levels), expected, atol=1e-5)
    np.testing.assert_allclose(half.denoise(noisy, levels, "reconstruct"), estimate, atol=1e-5)


def test_int8_vectors_come_back_almost_as_they_are(denoiser: Denoiser, clean: Embeddings) -> None:
    rounded = round_to_int8(clean)
    assert 0 < np.abs(rounded - clean).max() < 0.003
    assert (denoiser.denoise(rounded) * clean).sum(1).min() > 0.999


def test_binary_vectors_show_their_noise_level_and_come_back_nearer_to_the_clean_ones(
    denoiser: Denoiser, clean: Embeddings
) -> None:
    signs = keep_signs(clean)
    lost = np.sqrt(((signs - clean) ** 2).mean())
    np.testing.assert_allclose(estimate_levels(signs), lost, rtol=0.1)
    repaired = denoiser.denoise(signs, mode="reconstruct")
    assert ((repaired - clean) ** 2).mean() < 0.8 * lost**2


VALUES = st.floats(-1000, 1000, width=32)


@given(arrays(np.float32, (2, WIDTH), elements=VALUES, fill=VALUES), st.floats(0, 10), st.sampled_from(["auto", 0.5]))
def test_any_allowed_vectors_give_finite_ones_of_the_same_shape(
    denoiser: Denoiser, embeddings: Embeddings, level: float, before: Level
) -> None:
    levels = np.hypot(levels_of(embeddings, before), level)
    denoised = denoiser.denoise(add_noise(embeddings, level, 1), levels)
    assert denoised.shape == embeddings.shape
    assert np.isfinite(denoised).all()
