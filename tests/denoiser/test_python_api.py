"""The Python API as the README shows it, and what it says to whoever holds it wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from denoiser import Denoiser
from denoiser.errors import CheckpointError, InvalidInputError
from denoiser.model.encoder import Embeddings
from denoiser.model.noise import add_noise
from denoiser.model.training import Recipe

WRONG: dict[str, tuple[Callable[[Denoiser, Embeddings], object], str]] = {
    "mode": (lambda d, y: d.denoise(y, mode="foo"), "mode is 'foo'; 'neighbours' or 'reconstruct'"),  # type: ignore[arg-type]
    "width": (lambda d, y: d.denoise(y[:, :300]), r"embeddings has the shape \(160, 300\); \[rows, 384\] is needed"),
    "one row": (lambda d, y: d.denoise(y[0]), r"embeddings has the shape \(384,\)"),
    "strings": (lambda d, y: d.denoise(y.astype(str)), "embeddings holds <U32; numbers are needed"),
    "ragged": (lambda d, _: d.denoise([[1.0], [1.0, 2.0]]), "embeddings has rows of different lengths"),  # type: ignore[arg-type]
    "one level": (lambda d, y: d.denoise(y, 0.1), r"levels has the shape \(\); \(160,\) is needed"),  # type: ignore[arg-type]
    "few levels": (lambda d, y: d.denoise(y, np.zeros(3)), r"levels has the shape \(3,\)"),
    "no level": (lambda d, y: d.denoise(y, np.full(len(y), np.nan)), r"levels\[0\] is nan; numbers from 0"),
    "negative levels": (lambda d, y: d.denoise(y, np.full(len(y), -1)), r"levels\[0\] is -1; numbers from 0"),
    "negative level": (lambda d, y: d.adapted(y, -1), "noise_level is -1; 'auto' or a number from 0"),
    "level in words": (lambda d, y: d.adapted(y, "low"), "noise_level is 'low'"),  # type: ignore[arg-type]
    "store of another width": (lambda d, y: d.adapted(y[:, :3]), r"embeddings has the shape \(160, 3\)"),
    "store with infinity": (lambda d, y: d.adapted(y / np.float32(0)), r"embeddings\[0, 0\] is -?inf"),
    "few to train on": (lambda d, y: d.trained(y[:63]), "embeddings has 63 rows; at least 64"),
    "nothing to train on": (
        lambda d, _: d.trained(np.full((64, 384), np.nan, np.float32)),
        r"embeddings\[0, 0\] is nan",
    ),
    "training of another width": (lambda d, y: d.trained(y[:, :3]), r"embeddings has the shape \(160, 3\)"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_an_unusable_argument_is_refused_by_its_name_and_value(
    denoiser: Denoiser, clean: Embeddings, kind: str
) -> None:
    ask, complaint = WRONG[kind]
    with pytest.raises(InvalidInputError, match=complaint) as refusal:
        ask(denoiser, clean[:160])
    assert "\n" not in str(refusal.value)


def test_lists_of_numbers_are_as_good_as_arrays(denoiser: Denoiser, clean: Embeddings) -> None:
    noisy = add_noise(clean[:3], 0.1, 1)
    found = denoiser.denoise(noisy.tolist(), [0.1, 0.1, 0.1])  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, denoiser.denoise(noisy, np.full(3, 0.1)))


def test_what_was_learnt_of_a_store_is_not_lost_without_a_word(
    tmp_path: Path, denoiser: Denoiser, clean: Embeddings
) -> None:
    adapted = denoiser.adapted(add_noise(np.tile(clean, (2, 1)), 0.1, 1))
    assert adapted.adaptation is not None
    with pytest.raises(CheckpointError, match="what was learnt of a store cannot be written"):
        adapted.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_the_verbs_of_the_python_api(tmp_path: Path, clean: Embeddings) -> None:
    recipe = Recipe(steps=20, batch=64)
    made = Denoiser.train(clean, recipe)
    made.save(tmp_path / "made")
    again = Denoiser.load(tmp_path / "made")
    noisy = add_noise(clean, 0.1, 1)
    np.testing.assert_allclose(again.denoise(noisy), made.denoise(noisy), atol=2e-3)
    assert again.manifest["recipe"]["steps"] == 20
