"""What the report says about a model that is adapted to a store, or trained on its text."""

import numpy as np

from denoiser.evaluation.measures import measure_adapted
from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import Embeddings, MiniLM
from denoiser.model.neighbours import SITUATIONS
from tests.denoiser.texts import sentences


def test_a_model_trained_on_one_set_is_measured_on_the_others_too(
    denoiser: Denoiser, encoder: MiniLM, clean: Embeddings
) -> None:
    sets = {"made up": encoder.encode_corpus(sentences(400).splitlines(), lambda _: None), "everyday": clean}
    found = list(measure_adapted("made up", sets, 0.1, denoiser, seed=0))
    assert [(row.domain, row.learnt_from, row.rows) for row in found] == [
        ("made up", "noisy vectors", 300),
        ("made up", "noisy vectors", 400),
        ("made up", "its clean text", 400),
        ("made up", "clean text like it", 200),
        ("everyday", "clean text of made up", len(clean)),
    ]
    own, other = found[2], found[4]
    assert all(own.overlap[s][2] > own.overlap[s][1] for s in SITUATIONS), "training on a text helps with it"
    assert other.overlap["both"][2] > other.overlap["both"][0], "and leaves other text better than undenoised"
    assert all(np.isfinite(list(row.gain_error.values())).all() for row in found)


def test_a_set_too_small_to_train_on_is_adapted_to_its_noisy_vectors_only(
    denoiser: Denoiser, clean: Embeddings
) -> None:
    found = list(measure_adapted("everyday", {"everyday": clean, "some": clean[:80]}, 0.1, denoiser, seed=0))
    assert [(row.domain, row.learnt_from, row.rows) for row in found] == [("everyday", "noisy vectors", len(clean))]
