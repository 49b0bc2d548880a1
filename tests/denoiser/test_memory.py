"""A model recognises, in noisy vectors, those it was trained on; it must not take other text for them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from denoiser.model import Mode, memory
from denoiser.model.denoise import Blend, Denoiser
from denoiser.model.encoder import Embeddings, MiniLM
from denoiser.model.memory import recall, remember
from denoiser.model.neighbours import TrueNeighbours
from denoiser.model.network import Network
from denoiser.model.noise import add_noise
from denoiser.model.training import Recipe, train
from tests.denoiser.texts import chinese_sentences, sentences
from tests.denoiser.vectors import cosines

AT_ONCE = Recipe(steps=1)


@pytest.fixture(scope="module")
def trained(denoiser: Denoiser, clean: Embeddings) -> Denoiser:
    """It knows the first half of the everyday sentences."""
    return denoiser.trained(clean[:80], AT_ONCE)


def likely(network: Network, noisy: Embeddings, level: float) -> torch.Tensor:
    with torch.inference_mode():
        return recall(network, torch.from_numpy(noisy), torch.full((len(noisy), 1), level))[0][:, 0]


@pytest.mark.parametrize(("mode", "nearness"), [("neighbours", 0.85), ("reconstruct", 0.9)])
@pytest.mark.parametrize("level", [0.01, 0.05, 0.1])
def test_vectors_trained_on_come_back_as_they_were(
    trained: Denoiser, denoiser: Denoiser, clean: Embeddings, level: float, mode: Mode, nearness: float
) -> None:
    noisy, levels = add_noise(clean[:80], level, 3), np.full(80, level)
    own, plain = (d.denoise(noisy, levels, mode) for d in (trained, denoiser))
    found = cosines(own, clean[:80])
    assert found.mean() > nearness
    assert np.median(found) > cosines(plain, clean[:80]).max(), "half of them come nearer than any did before"


@pytest.mark.parametrize("level", [0.01, 0.05, 0.1, 0.2, 0.3])
def test_other_text_is_not_taken_for_it(trained: Denoiser, clean: Embeddings, level: float) -> None:
    assert likely(trained.network, add_noise(clean[80:], level, 4), level).mean() < 0.02


def test_alike_sentences_are_told_apart_while_noise_is_low(denoiser: Denoiser, encoder: MiniLM) -> None:
    alike = encoder.encode(sentences(200).splitlines())  # "The red boat stops near my neighbour."
    trained = denoiser.trained(alike[::2], AT_ONCE)
    level = 0.03
    assert likely(trained.network, add_noise(alike[::2], level, 4), level).mean() > 0.9
    assert likely(trained.network, add_noise(alike[1::2], level, 4), level).mean() < 0.05


@pytest.fixture(scope="module")
def chinese(encoder: MiniLM) -> Embeddings:
    return encoder.encode(chinese_sentences())


def test_sentences_of_another_language_are_not_taken_for_each_other(denoiser: Denoiser, chinese: Embeddings) -> None:
    verbs = chinese.reshape(-1, 8, chinese.shape[1])
    known, others = verbs[:, :4].reshape(-1, chinese.shape[1]), verbs[:, 4:].reshape(-1, chinese.shape[1])
    network = denoiser.trained(known, AT_ONCE).network
    right, wrong = (likely(network, add_noise(text, 0.1, 4), 0.1).mean() for text in (known, others))
    assert right > 0.5
    assert wrong < right / 2, "all differ in nothing but two words"


@pytest.fixture(scope="module")
def knows_a_third(denoiser: Denoiser, chinese: Embeddings) -> Denoiser:
    return denoiser.trained(chinese[::3], AT_ONCE)


@pytest.mark.parametrize("level", [0.02, 0.05, 0.1])
def test_known_rows_of_a_noisy_store_do_not_hide_the_others_from_clean_queries(
    knows_a_third: Denoiser, chinese: Embeddings, level: float
) -> None:
    true, noisy = TrueNeighbours(chinese), add_noise(chinese, level, 1)
    before, after = (true.overlaps(rows)["store"] for rows in (noisy, knows_a_third.denoise(noisy)))
    assert after[1::3].mean() > before[1::3].mean() - 0.02


@pytest.fixture(scope="module")
def knows_all(denoiser: Denoiser, chinese: Embeddings) -> Denoiser:
    return denoiser.trained(chinese, AT_ONCE)


@pytest.mark.parametrize(("level", "least"), [(0.05, 0.83), (0.1, 0.62)])
def test_noisy_queries_find_their_neighbours_in_a_noisy_store_of_which_all_is_known(
    knows_all: Denoiser, chinese: Embeddings, level: float, least: float
) -> None:
    denoised = knows_all.denoise(add_noise(chinese, level, 1))
    assert TrueNeighbours(chinese).overlaps(denoised)["both"].mean() > least


@pytest.mark.parametrize("mode", ["neighbours", "reconstruct"])
def test_a_network_that_has_learnt_english_alone_recognises_too(clean: Embeddings, mode: Mode) -> None:
    plain = Denoiser(train(clean, Recipe(steps=1, hidden=16, blocks=1), lambda *_: None), Blend((0.1,), ((0.5,),)))
    noisy = add_noise(clean, 0.05, 3)
    trained = plain.trained(clean[:80], AT_ONCE)
    found = [cosines(made.denoise(noisy, np.full(len(noisy), 0.05), mode), clean) for made in (plain, trained)]
    assert found[1][:80].mean() > found[0][:80].max()
    np.testing.assert_allclose(found[1][80:], found[0][80:], atol=0.05)


def test_where_noise_hides_nearly_all_nothing_is_recognised(trained: Denoiser, clean: Embeddings) -> None:
    noisy, levels = add_noise(clean[:80], 0.35, 3), np.full(80, 0.35)
    assert likely(trained.network, noisy, 0.35).max() < 0.05
    assert np.isfinite(trained.denoise(noisy, levels)).all()


@pytest.mark.parametrize("mode", ["neighbours", "reconstruct"])
@pytest.mark.parametrize("level", [1e-45, 1e-38, 1e-30, 1e-20, 1e-15, 1e-6])
def test_with_next_to_no_noise_vectors_come_back_as_they_were(
    trained: Denoiser, clean: Embeddings, level: float, mode: Mode
) -> None:
    denoised = trained.denoise(clean, np.full(len(clean), level), mode)
    np.testing.assert_allclose(denoised, clean, atol=1e-5)


def test_rows_of_any_level_share_a_batch_and_rows_without_noise_stay(trained: Denoiser, clean: Embeddings) -> None:
    levels = np.array([0.0, 0.1] * 40)
    noisy = np.where(levels[:, None] > 0, add_noise(clean[:80], 0.1, 3), clean[:80])
    together = trained.denoise(noisy, levels)
    np.testing.assert_array_equal(together[::2], clean[:80:2])
    np.testing.assert_allclose(together[1::2], trained.denoise(noisy[1::2], levels[1::2]), atol=1e-5)


def test_nothing_differs_in_low_precision(trained: Denoiser, clean: Embeddings) -> None:
    noisy = add_noise(clean, 0.05, 3)
    with torch.autocast("cpu", torch.bfloat16):
        low = likely(trained.network, noisy, 0.05)
    torch.testing.assert_close(low, likely(trained.network, noisy, 0.05))


def test_a_saved_model_still_knows_them_and_another_training_adds_to_them(
    trained: Denoiser, denoiser: Denoiser, clean: Embeddings, tmp_path: Path
) -> None:
    assert denoiser.network.shape["known"] == 0
    trained.save(tmp_path / "model")
    loaded = Denoiser.load(tmp_path / "model")
    torch.testing.assert_close(loaded.network.known, torch.from_numpy(clean[:80]), atol=1e-3, rtol=0)
    more = loaded.trained(clean[70:], AT_ONCE).network
    assert len(more.known) == len(clean), "what was known already is kept once"
    for part in (clean[:80], clean[80:]):
        assert likely(more, add_noise(part, 0.1, 3), 0.1).mean() > 0.5


def test_of_too_many_the_oldest_are_forgotten(
    denoiser: Denoiser, clean: Embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MOST", 50)
    network = denoiser.trained(clean[:64], AT_ONCE).network
    np.testing.assert_array_equal(network.known.numpy(), clean[:50])
    remember(network, torch.from_numpy(clean[80:110]))
    expected = np.concatenate([clean[80:110], clean[:20]])
    np.testing.assert_array_equal(network.known.numpy(), expected)
    remember(network, torch.from_numpy(clean))
    np.testing.assert_array_equal(network.known.numpy(), clean[:50])
