"""Small real training runs, checkpoints and what is measured of them."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from denoiser.evaluation.measures import measure, measure_quantised, spearman
from denoiser.evaluation.methods import methods_of
from denoiser.model.denoise import Blend, Denoiser
from denoiser.model.encoder import Embeddings, MiniLM
from denoiser.model.neighbours import SITUATIONS, TrueNeighbours
from denoiser.model.network import RANKING_LEVELS, Network
from denoiser.model.noise import add_noise
from denoiser.model.ordering import Ordering, share_of_steps
from denoiser.model.ranking import TOLD, choose_shares, fit_ranking
from denoiser.model.training import Recipe, fine_tuning, train
from denoiser.text import corpus as corpora
from denoiser.text.corpus import Corpus, to_evaluate
from denoiser.text.embeddings import count_texts, prepare

ON_EACH_DEVICE = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
SMALL = Recipe(steps=30, batch=32, hidden=16, blocks=1)


def quiet(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def small(clean: Embeddings) -> Network:
    return train(clean, SMALL, quiet)


def test_the_same_seed_gives_the_same_weights(clean: Embeddings, small: Network) -> None:
    again, other = train(clean, SMALL, quiet), train(clean, Recipe(**{**SMALL.__dict__, "seed": 1}), quiet)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(small.parameters(), other.parameters(), strict=True))


def test_training_leaves_the_callers_random_numbers_alone(clean: Embeddings) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(clean, SMALL, quiet)
    assert torch.equal(torch.rand(1), expected)


def test_training_tells_its_progress(clean: Embeddings) -> None:
    seen: list[int] = []
    train(clean, Recipe(steps=122, batch=16, hidden=16, blocks=1), lambda step, _: seen.append(step))
    assert seen == [*range(3, 121, 3), 122]


@ON_EACH_DEVICE
def test_the_last_steps_learn_the_order_of_similarities_and_keep_the_error_small(
    clean: Embeddings, device: str
) -> None:
    losses, errors = [], []
    for ordering in (0.0, 0.5):
        recipe = Recipe(steps=300, ordering=ordering, batch=64, hidden=64, blocks=1, device=device)
        network = train(clean, recipe, quiet)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(1)
            measured = Ordering(network, network.rotate(torch.from_numpy(clean))).objective()
            found = torch.tensor([measured.loss(network, measured.draw()) for _ in range(100)]).mean(0)
        losses.append(found[0].item())
        errors.append(found[1].item())
    assert losses[1] < losses[0]
    assert errors[1] < 1.1 * errors[0]


def test_the_order_is_learnt_from_much_text_only() -> None:
    assert [share_of_steps(sentences) for sentences in (0, 16_560, 877_608)] == [0, 0, 1 / 32]


def test_fine_tuning_takes_longer_for_more_text(small: Network) -> None:
    assert [fine_tuning(small, sentences, most=800).steps for sentences in (64, 400, 4000)] == [2, 50, 800]


def test_an_untrained_network_is_the_wiener_filter_and_the_identity_without_noise(clean: Embeddings) -> None:
    network = Network(384, 16, 2)
    vectors = torch.from_numpy(clean)
    network.fit(vectors, [])
    noisy, level = vectors + 0.1 * torch.randn_like(vectors), torch.full((len(vectors), 1), 0.1)
    with torch.no_grad():
        torch.testing.assert_close(network(noisy, level), network.wiener(noisy, level), atol=1e-5, rtol=0)
        torch.testing.assert_close(network(vectors, 0 * level), vectors)


@ON_EACH_DEVICE
def test_training_on_more_steps_lowers_the_error_on_seen_text(clean: Embeddings, device: str) -> None:
    network = train(clean, Recipe(steps=300, batch=64, hidden=64, blocks=1, device=device), quiet)
    vectors = torch.from_numpy(clean)
    noisy, level = vectors + 0.1 * torch.randn_like(vectors), torch.full((len(vectors), 1), 0.1)
    with torch.no_grad():
        trained, wiener = (((f(noisy, level) - vectors) ** 2).mean() for f in (network, network.wiener))
    assert trained < wiener


def test_fitted_ranking_is_no_worse_on_its_own_text_and_the_same_for_the_same_seed(
    clean: Embeddings, small: Network
) -> None:
    fitted = [deepcopy(small), deepcopy(small)]
    fits: list[None] = []
    told = {fit_ranking(network, [[clean]], 1, lambda: fits.append(None), steps=6) for network in fitted}
    assert len(told) == 1
    assert told < set(TOLD)
    assert len(fits) == 2 * (len(TOLD) + len(RANKING_LEVELS))
    assert torch.equal(fitted[0].ranking, fitted[1].ranking)
    assert not torch.equal(fitted[0].ranking, small.ranking)
    noisy = add_noise(clean, 0.1, 9)
    result = Denoiser(fitted[0], Blend((0.1,), ((1.0,),))).denoise(noisy, np.full(len(noisy), 0.1))
    before, after = map(TrueNeighbours(clean).overlaps, (noisy, result))
    assert after["both"].mean() > before["both"].mean()


def test_a_network_that_harms_gets_no_share(clean: Embeddings) -> None:
    scrambling = Network(384, 16, 1)
    scrambling.ranking.normal_(0, 10, generator=torch.Generator().manual_seed(1))
    assert choose_shares(scrambling, [[clean]], 1.0, 0, lambda: None) == [[0.0] * len(RANKING_LEVELS)]


def test_the_network_is_told_as_much_of_the_noise_as_loses_least_of_the_order(clean: Embeddings) -> None:
    class Sure(Network):
        """The best estimate at its true level, for one that is told a part of it; else the noise itself."""

        def __init__(self, part: float) -> None:
            super().__init__(384, 16, 0)
            self.part = part

        def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
            return self.wiener(noisy, level / self.part) if torch.all(level == self.part * 0.2) else -noisy

    for part in TOLD:
        network = Sure(part)
        network.fit(torch.from_numpy(clean), [])
        assert fit_ranking(network, [[clean]], 0, lambda: None, steps=4) == part


def test_weights_along_the_axes_are_interpolated_between_levels_and_a_share_of_0_keeps_the_direction(
    clean: Embeddings,
) -> None:
    network = Network(384, 16, 1)
    network.ranking[0, :, 1] = torch.arange(len(RANKING_LEVELS))[:, None]
    noisy, estimate = torch.from_numpy(clean), torch.from_numpy(np.roll(clean, 1, 0))
    level = torch.full((len(clean), 1), 0.125)
    half = network.blend(noisy, estimate, level, torch.ones_like(level))
    torch.testing.assert_close(half, torch.nn.functional.normalize(noisy + 3.5 * estimate), atol=1e-4, rtol=0)
    same = network.blend(noisy, estimate, level, torch.zeros_like(level))
    torch.testing.assert_close(same, noisy, atol=1e-4, rtol=0)


def test_held_out_text_has_no_near_duplicate_in_training_and_embeddings_are_kept(
    tmp_path: Path, encoder: MiniLM
) -> None:
    sentences = [f"Visitor number {n} of the museum bought a ticket for {n * 7} coins." for n in range(220)]
    foreign = ["Im Norden frieren die Häfen zu."]
    sets = {"in-domain": sentences[:22], "same": [*sentences[-20:], *foreign, "The harbour froze over in the night."]}
    corpus = Corpus(
        sentences[22:], sets, [], {"near": sentences[-10:]}, ["Tickets for the museum"], {"other languages": foreign}
    )
    done: list[int] = []
    data = prepare(corpus, encoder, tmp_path, done.append)
    assert len(data.training) == 198 + 1
    assert set(data.evaluation) == {"in-domain", "same"}
    assert (len(data.evaluation["same"]), len(data.development["near"])) == (1, 0)
    assert len(data.foreign["other languages"]) == 1
    assert sum(done) == count_texts(corpus) == 198 + 22 + 22 + 10 + 1 + 1
    again = prepare(corpus, encoder, tmp_path, quiet)
    np.testing.assert_array_equal(again.training, data.training)


def test_what_training_left_out_is_left_out_again_without_the_training_text(
    tmp_path: Path, encoder: MiniLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "BASELINE_SENTENCES", 220)
    learnt = [f"Visitor number {n} of the museum bought a ticket for {n * 7} coins." for n in range(300)]
    corpus = Corpus(learnt, {"in-domain": [learnt[0], "The harbour froze over in the night."]}, [])
    trained_on = prepare(corpus, encoder, tmp_path, quiet)
    smaller = to_evaluate(corpus, trained_on.left_out, seed=1)
    assert smaller.evaluation == {"in-domain": ["The harbour froze over in the night."]}
    assert len(smaller.learnt) == 220
    assert set(smaller.learnt) < set(learnt)
    measured_on = prepare(smaller, encoder, tmp_path, quiet)
    np.testing.assert_allclose(measured_on.evaluation["in-domain"], trained_on.evaluation["in-domain"], atol=1e-6)


def test_measures_of_the_baselines_are_what_they_must_be(clean: Embeddings, denoiser: Denoiser) -> None:
    measures = {m.method: m for m in measure("test", clean, 0.1, methods_of(denoiser), seed=1)}
    assert measures["identity"].mse == pytest.approx(0.01, rel=0.02)
    assert measures["identity"].gain == {"query": 0, "store": 0, "both": 0}
    assert measures["zeros"].mse == pytest.approx(1 / 384, rel=1e-3)
    assert measures["zeros"].overlap["query"] == 0
    assert measures["reconstruct"].mse < measures["Wiener"].mse < measures["identity"].mse
    low, high = measures["neighbours"].interval["both"]
    assert low < measures["neighbours"].overlap["both"] < high
    json.dumps([m.__dict__ for m in measures.values()])


def test_quantised_sets_are_measured_before_and_after(clean: Embeddings, denoiser: Denoiser) -> None:
    measured = {q.kind: q for q in measure_quantised("test", clean, denoiser)}
    assert measured["int8"].level == 0
    assert 0.03 < measured["binary"].level < 0.05
    assert all(0 < measured["binary"].before[s] < measured["int8"].before[s] for s in SITUATIONS)


def test_spearman_ranks() -> None:
    rising = np.arange(10.0)
    assert spearman(rising, rising**3) == pytest.approx(1)
    assert spearman(rising, -rising) == pytest.approx(-1)
    assert spearman(rising, np.zeros(10)) == 0
