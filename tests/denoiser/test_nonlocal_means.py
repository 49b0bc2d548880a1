"""Rows of a noisy store moved towards those like them: what it finds, and what has no part in it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from denoiser.model import adaptation as module
from denoiser.model import nonlocal_means
from denoiser.model.adaptation import Moments
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import Embeddings
from denoiser.model.neighbours import TrueNeighbours
from denoiser.model.noise import add_noise
from denoiser.model.nonlocal_means import NonLocalMeans

LEVEL = 0.1


@pytest.fixture(scope="module")
def adapted(denoiser: Denoiser, clean: Embeddings) -> Denoiser:
    return denoiser.adapted(add_noise(np.concatenate([clean, clean]), LEVEL, 1), LEVEL)


def levels(rows: int, level: float = LEVEL) -> Tensor:
    return torch.full((rows, 1), level)


def random_units(rows: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return functional.normalize(torch.randn(rows, 384))


def test_more_is_found_than_with_the_corrections_alone(
    denoiser: Denoiser, adapted: Denoiser, clean: Embeddings
) -> None:
    assert adapted.adaptation is not None
    nothing = NonLocalMeans(torch.zeros(384), torch.zeros(1, 384))
    corrected = Denoiser(denoiser.network, adapted.blend, adaptation=replace(adapted.adaptation, means=nothing))
    found: dict[str, list[float]] = {"corrected": [], "moved": []}
    for seed in range(4):
        noisy, at = add_noise(clean, LEVEL, seed), np.full(len(clean), LEVEL)
        for name, each in (("corrected", corrected), ("moved", adapted)):
            found[name].append(TrueNeighbours(clean).overlaps(each.denoise(noisy, at))["both"].mean())
    assert np.mean(found["moved"]) > np.mean(found["corrected"])


def test_a_row_has_no_part_in_its_own_mean() -> None:
    rows = random_units(300)
    moved = NonLocalMeans.of(rows).smoothed(rows, levels(300)) - rows
    assert float(moved.norm(dim=1).min()) > 0.02


def test_a_row_of_which_the_store_has_many_copies_is_not_moved_by_them() -> None:
    rows = random_units(300)
    store = torch.cat([rows, rows[:1].expand(40, -1)])
    moved = NonLocalMeans.of(store).smoothed(rows, levels(300)) - rows
    assert float(moved[0].norm()) == pytest.approx(0, abs=1e-6)
    assert float(moved[1:].norm(dim=1).min()) > 0.02


def test_what_all_rows_have_in_common_draws_none() -> None:
    rows = functional.normalize(random_units(300) + 2 * random_units(301)[300])
    common = functional.normalize(rows.mean(0), dim=0)
    moved = NonLocalMeans.of(rows).smoothed(rows, levels(300)) - rows
    assert float((moved @ common).mean().abs()) < 0.01 < float(moved.norm(dim=1).mean())


def test_a_row_is_moved_towards_the_rows_like_it() -> None:
    rows = random_units(300)
    pairs = torch.cat([rows, functional.normalize(rows + 0.5 * random_units(600)[300:])])
    moved = NonLocalMeans.of(pairs).smoothed(pairs, levels(600))
    before, after = ((v[:300] * v[300:]).sum(1) for v in (pairs, moved))
    assert bool((after > before).all())
    torch.testing.assert_close(moved.norm(dim=1), torch.ones(600))


def test_rows_that_do_not_agree_move_a_row_little() -> None:
    apart = random_units(900)
    about_30_things = functional.normalize(apart + apart[:30].repeat(30, 1))
    moved = [(NonLocalMeans.of(v).smoothed(v, levels(900)) - v).norm(dim=1) for v in (apart, about_30_things)]
    assert float(moved[0].max()) < float(moved[1].quantile(0.1))


@pytest.mark.parametrize("level", [0.01, 0.3, 0.5])
def test_where_noise_is_least_and_most_nothing_is_moved(level: float) -> None:
    rows = random_units(300)
    torch.testing.assert_close(NonLocalMeans.of(rows).smoothed(rows, levels(300, level)), rows)


def test_rows_of_another_noise_level_are_not_moved(adapted: Denoiser) -> None:
    assert adapted.adaptation is not None
    rows = random_units(20)
    torch.testing.assert_close(adapted.adaptation.smoothed(rows, levels(20, 0.15)), rows)
    assert not torch.equal(adapted.adaptation.smoothed(rows, levels(20)), rows)


def test_of_a_large_store_a_random_part_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonlocal_means, "SAMPLE", 100)
    rows = random_units(300)
    means = NonLocalMeans.of(rows)
    kept = functional.normalize(rows - means.centre) @ means.directions.T > 0.999
    where = kept.any(1).nonzero()[:, 0].float()
    assert len(where) == len(means.directions) == 100
    assert 120 < float(where.mean()) < 180


def test_the_sample_is_random_and_the_same_whatever_the_chunks(
    denoiser: Denoiser, clean: Embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAMPLE", 100)
    noisy = torch.from_numpy(add_noise(np.concatenate([clean] * 4), LEVEL, 1))

    def sample(size: int) -> Tensor:
        chunks = torch.split(noisy, size)
        return Moments.of(denoiser.width, ((rows, rows, levels(len(rows))) for rows in chunks)).sample

    first, second = sample(len(noisy)), sample(70)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    drawn = [int((noisy == row).all(1).nonzero()) for row in first]
    assert len(set(drawn)) == len(first) == 100
    assert len(noisy) / 3 < np.mean(drawn) < len(noisy) * 2 / 3


def test_what_rows_are_compared_with_is_as_many_as_the_store_has(adapted: Denoiser, clean: Embeddings) -> None:
    assert adapted.adaptation is not None
    means = adapted.adaptation.means
    assert means is not None
    assert len(means.directions) == 2 * len(clean)
    assert means.smoothed(torch.empty(0, 384), levels(0)).shape == (0, 384)
