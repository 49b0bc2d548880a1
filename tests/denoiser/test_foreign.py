"""Text of other languages than the encoder's: it is told from English, and denoising it loses no neighbours."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from denoiser.model import checkpoint
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import Embeddings, MiniLM
from denoiser.model.network import RANKING_LEVELS, Network, weigh
from denoiser.model.noise import add_noise
from denoiser.model.ranking import choose_shares, fit_ranking
from denoiser.model.rehearsal import imagine
from denoiser.model.training import Recipe, train
from denoiser.text.prose import split_sentences
from tests.denoiser.losses import assert_nothing_lost

LEVEL = 0.1


@pytest.fixture(scope="module")
def foreign(encoder: MiniLM) -> Embeddings:
    """Embeddings of everyday sentences in fifteen languages that are in no package."""
    return encoder.encode(Path(__file__).with_name("foreign.txt").read_text().splitlines())


@pytest.fixture
def network(clean: Embeddings, foreign: Embeddings) -> Network:
    """An untrained one that knows where both lie."""
    network = Network(clean.shape[1], 16, 1, foreign=4)
    network.fit(torch.from_numpy(clean), torch.from_numpy(foreign))
    return network


def likely_foreign(network: Network, noisy: Embeddings, level: float) -> Embeddings:
    vectors = torch.from_numpy(noisy)
    with torch.inference_mode():
        return np.asarray(network.kinds(network.rotate(vectors), torch.full((len(noisy), 1), level))[:, 1].numpy())


@pytest.mark.parametrize("level", [0.02, 0.05, 0.1])
def test_one_noisy_vector_tells_english_from_other_languages(
    denoiser: Denoiser, clean: Embeddings, foreign: Embeddings, level: float
) -> None:
    found = [likely_foreign(denoiser.network, add_noise(text, level, 1), level) for text in (clean, foreign)]
    assert found[0].mean() < 0.1
    assert found[1].mean() > 0.7


@pytest.mark.parametrize("level", RANKING_LEVELS)
def test_neighbours_of_foreign_text_are_never_below_doing_nothing(
    denoiser: Denoiser, foreign: Embeddings, level: float
) -> None:
    assert_nothing_lost(denoiser, foreign, level, draws=8)


def test_a_network_learns_other_languages_besides_english(clean: Embeddings, foreign: Embeddings) -> None:
    recipe = Recipe(steps=600, batch=64, hidden=64, blocks=1)
    plain, both = (train(clean, recipe, lambda *_: None, foreign=text) for text in (None, foreign[::2]))
    torch.testing.assert_close(both.axes, plain.axes)
    error = {}
    for name, text in (("english", clean), ("foreign", foreign[1::2])):
        noisy, level = torch.from_numpy(add_noise(text, LEVEL, 1)), torch.full((len(text), 1), LEVEL)
        with torch.no_grad():
            estimates = [made(noisy, level) for made in (plain, both)]
        error[name] = [float(((estimate - torch.from_numpy(text)) ** 2).mean()) for estimate in estimates]
    assert error["foreign"][1] < 0.9 * error["foreign"][0]
    assert error["english"][1] < 1.1 * error["english"][0]


def test_a_network_keeps_the_means_of_clusters_of_other_languages(clean: Embeddings) -> None:
    torch.manual_seed(1)
    centres = functional.normalize(torch.randn(4, clean.shape[1]))
    network = Network(clean.shape[1], 16, 1, foreign=4)
    network.fit(torch.from_numpy(clean), centres.repeat_interleave(50, 0) + 0.01 * torch.randn(200, clean.shape[1]))
    distances = torch.cdist(network.rotate(centres), network.foreign)
    assert distances.amin(0).max() < 0.1
    assert distances.amin(1).max() < 0.1


def test_what_is_imagined_is_partly_of_other_languages(denoiser: Denoiser) -> None:
    torch.manual_seed(0)
    network = denoiser.network
    imagined, level = imagine(network, 400), torch.full((400, 1), LEVEL)
    with torch.inference_mode():
        likely = network.kinds(imagined + LEVEL * torch.randn_like(imagined), level)[:, 1]
    assert 0.15 < likely.mean() < 0.35


def test_without_noise_a_network_that_knows_other_languages_is_the_identity(
    network: Network, foreign: Embeddings
) -> None:
    vectors = torch.from_numpy(foreign)
    with torch.no_grad():
        torch.testing.assert_close(network(vectors, torch.zeros(len(foreign), 1)), vectors)


def test_each_kind_of_text_is_weighed_as_far_as_it_is_likely() -> None:
    noisy, estimate = torch.tensor([[1.0, 0.0]]).expand(3, 2), torch.tensor([[0.0, 1.0]]).expand(3, 2)
    weights = torch.tensor([[[[1.0, 1.0], [2.0, 2.0]]], [[[3.0, 3.0], [4.0, 4.0]]]])
    kinds = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    expected = torch.tensor([[1.0, 2.0], [3.0, 4.0], [2.0, 3.0]])
    torch.testing.assert_close(weigh(noisy, estimate, weights, kinds), expected)


def test_each_kind_of_text_is_weighed_by_its_own_and_a_share_must_harm_neither(
    network: Network, clean: Embeddings, foreign: Embeddings
) -> None:
    fit_ranking(network, [[clean], [foreign]], 0, lambda: None, steps=6)
    assert not torch.equal(network.ranking[0], network.ranking[1])
    with torch.no_grad():
        network.ranking[1].normal_(0, 10, generator=torch.Generator().manual_seed(1))
    assert choose_shares(network, [[clean], [foreign]], 1.0, 0, lambda: None) == [0.0] * len(RANKING_LEVELS)


def test_a_network_that_goes_on_learning_still_knows_other_languages(
    tmp_path: Path, network: Network, clean: Embeddings, foreign: Embeddings
) -> None:
    trained = train(clean, Recipe(steps=4, batch=16, hidden=16, blocks=1), lambda *_: None, network)
    checkpoint.save(tmp_path / "made", trained, {"blend": {"levels": [0.0], "shares": [1.0]}})
    loaded = Denoiser.load(tmp_path / "made")
    noisy = add_noise(foreign, LEVEL, 1)
    expected = likely_foreign(network, noisy, LEVEL)
    np.testing.assert_allclose(likely_foreign(loaded.network, noisy, LEVEL), expected, atol=0.02)


def test_sentences_of_any_language_are_found_in_prose_and_nothing_else() -> None:
    text = "今天的天气真的很好，我们去公园散步吧。请问去最近的火车站应该怎么走才最快？ Это длинное предложение. X=3;"
    assert list(split_sentences(text, english=False)) == [
        "今天的天气真的很好，我们去公园散步吧。",
        "请问去最近的火车站应该怎么走才最快？",
        "Это длинное предложение.",
    ]
