"""Text that is no English prose, of other languages or program lines: it is told from English, and denoising it loses
no neighbours.
"""

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
from denoiser.text.embeddings import without_near_duplicates
from denoiser.text.prose import split_lines, split_sentences
from tests.denoiser.losses import assert_nothing_lost

LEVEL = 0.1


@pytest.fixture(scope="module")
def foreign(encoder: MiniLM) -> Embeddings:
    """Embeddings of everyday sentences in fifteen languages that are in no package."""
    return encoder.encode(Path(__file__).with_name("foreign.txt").read_text().splitlines())


@pytest.fixture
def network(clean: Embeddings, foreign: Embeddings) -> Network:
    """An untrained one that knows where both lie."""
    network = Network(clean.shape[1], 16, 1, foreign=4, foreign_kinds=1)
    network.fit(torch.from_numpy(clean), [torch.from_numpy(foreign)])
    return network


@pytest.fixture(scope="module")
def lines(encoder: MiniLM) -> Embeddings:
    """Embeddings of lines of this project's tests as they once were: any change of the text is another draw."""
    vectors = encoder.encode(Path(__file__).with_name("lines.txt").read_text().splitlines())
    return without_near_duplicates(vectors, vectors[:0])


def likely_foreign(network: Network, noisy: Embeddings, level: float) -> Embeddings:
    vectors = torch.from_numpy(noisy)
    with torch.inference_mode():
        kinds = network.kinds(network.rotate(vectors), torch.full((len(noisy), 1), level))
        return np.asarray(kinds[:, 1:].sum(1).numpy())


@pytest.mark.parametrize("level", [0.02, 0.05, 0.1])
def test_one_noisy_vector_tells_english_prose_from_other_text(
    denoiser: Denoiser, clean: Embeddings, foreign: Embeddings, lines: Embeddings, level: float
) -> None:
    found = [likely_foreign(denoiser.network, add_noise(text, level, 1), level) for text in (clean, foreign, lines)]
    assert found[0].mean() < 0.1
    assert found[1].mean() > 0.7
    assert found[2].mean() > 0.7


@pytest.mark.parametrize("level", RANKING_LEVELS)
def test_neighbours_of_foreign_text_are_never_below_doing_nothing(
    denoiser: Denoiser, foreign: Embeddings, level: float
) -> None:
    assert_nothing_lost(denoiser, foreign, level, draws=8)


# At 0.2 clean queries lose .01 or so in noisy stores of lines that are all alike; see bench/RESULTS.md.
@pytest.mark.parametrize("level", [level for level in RANKING_LEVELS if level != 0.2])
def test_neighbours_of_program_lines_are_not_below_doing_nothing(
    denoiser: Denoiser, lines: Embeddings, level: float
) -> None:
    assert_nothing_lost(denoiser, lines, level, draws=4)


def test_a_network_learns_other_languages_besides_english(clean: Embeddings, foreign: Embeddings) -> None:
    recipe = Recipe(steps=600, batch=64, hidden=64, blocks=1)
    plain, both = (train(clean, recipe, lambda *_: None, foreign=text) for text in ([], [foreign[::2]]))
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
    network = Network(clean.shape[1], 16, 1, foreign=4, foreign_kinds=1)
    network.fit(torch.from_numpy(clean), [centres.repeat_interleave(50, 0) + 0.01 * torch.randn(200, clean.shape[1])])
    distances = torch.cdist(network.rotate(centres), network.foreign[0])
    assert distances.amin(0).max() < 0.1
    assert distances.amin(1).max() < 0.1


def test_what_is_imagined_is_partly_no_english_prose(denoiser: Denoiser) -> None:
    torch.manual_seed(0)
    network = denoiser.network
    imagined, level = imagine(network, 400), torch.full((400, 1), LEVEL)
    with torch.inference_mode():
        likely = network.kinds(imagined + LEVEL * torch.randn_like(imagined), level)[:, 1:].sum(1)
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


def test_each_kind_of_text_is_weighed_by_its_own_and_trusted_where_that_does_no_harm(
    network: Network, clean: Embeddings, foreign: Embeddings
) -> None:
    fit_ranking(network, [[clean], [foreign]], 0, lambda: None, steps=6)
    assert not torch.equal(network.ranking[0], network.ranking[1])
    with torch.no_grad():
        network.ranking[1].normal_(0, 10, generator=torch.Generator().manual_seed(1))
    shares = choose_shares(network, [[clean], [foreign]], 1.0, 0, lambda: None)
    assert max(shares[0]) > max(shares[1]) == 0


def test_english_is_trusted_most_but_less_where_noisy_queries_in_other_text_lose_by_it(
    network: Network, clean: Embeddings, foreign: Embeddings
) -> None:
    draw = torch.Generator().manual_seed(1)
    rare = torch.randn(600, 64, generator=draw) @ network.axes[:, -64:].T  # English hardly differs along these axes
    unlike = functional.normalize(torch.from_numpy(clean).mean(0) + 0.1 * rare, dim=1).numpy()
    assert likely_foreign(network, unlike, LEVEL).max() < 0.1
    with_foreign, with_unlike = (
        np.array(choose_shares(network, [[clean], [store]], 1.0, 0, lambda: None)) for store in (foreign, unlike)
    )
    at = RANKING_LEVELS.index(LEVEL)
    assert 0 < with_unlike[0, at] < with_foreign[0, at]
    assert all((of_other <= of_english).all() for of_english, of_other in (with_foreign, with_unlike))


def test_shares_count_as_far_as_a_vector_is_likely_of_their_kind(
    network: Network, clean: Embeddings, foreign: Embeddings
) -> None:
    with torch.no_grad():
        network.ranking.normal_(1, 0.1, generator=torch.Generator().manual_seed(1))
        vectors = torch.from_numpy(add_noise(np.concatenate([clean[:50], foreign[:50]]), LEVEL, 1))
        level = torch.full((len(vectors), 1), LEVEL)
        estimate = network(vectors, level)
        one, both = (
            network.blend(vectors, estimate, level, torch.tensor([shares])) for shares in ([0.0, 1.0], [1.0, 1.0])
        )
        likely = network.kinds(network.rotate(vectors), level)[:, 1]
        moved = (one - functional.normalize(vectors)).norm(dim=1) / (both - functional.normalize(vectors)).norm(dim=1)
    assert moved[likely > 0.99].min() > 0.9
    assert moved[likely < 0.01].max() < 0.1


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


def test_lines_are_taken_whole_but_for_english_prose_and_those_too_short_or_long() -> None:
    lines = ["def double(x: int) -> int:", "    return 2 * x + 0", "This is a sentence of English prose.", "x = 1"]
    text = "\n".join([*lines, "a.b" * 200])
    assert list(split_lines(text)) == ["def double(x: int) -> int:", "return 2 * x + 0"]
