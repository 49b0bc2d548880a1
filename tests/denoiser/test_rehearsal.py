"""Training on one text must not take away what a network knows of others."""

import torch
from torch import Tensor
from torch.nn import functional

from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import Embeddings, MiniLM
from denoiser.model.examples import Examples
from denoiser.model.network import Network
from denoiser.model.rehearsal import imagine
from denoiser.model.training import Recipe
from tests.denoiser.texts import sentences


def error(network: Network, vectors: Tensor) -> float:
    """Of estimates for coordinates [n, width]; 1 is the Wiener filter's."""
    torch.manual_seed(1)
    with torch.no_grad():
        examples = Examples.of(vectors, 4000)
        return float(examples.errors(network, examples.estimates(network)).mean())


def test_a_network_imagines_unit_vectors_that_it_can_denoise(denoiser: Denoiser) -> None:
    network = denoiser.network
    torch.manual_seed(0)
    imagined = imagine(network, 300)
    vectors = network.mean + imagined @ network.axes.T
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(300), atol=1e-3, rtol=0)
    others = network.rotate(functional.normalize(torch.randn(300, vectors.shape[1])))
    assert error(network, imagined) < 0.9
    assert error(network, others) > 1


def test_other_text_is_denoised_better_than_by_the_wiener_filter_after_training_on_one(
    denoiser: Denoiser, encoder: MiniLM, clean: Embeddings
) -> None:
    one = encoder.encode_corpus(sentences(300).splitlines(), lambda _: None)
    trained = denoiser.trained(one, Recipe(steps=60)).network
    assert error(trained, trained.rotate(torch.from_numpy(one))) < 0.5
    assert error(trained, trained.rotate(torch.from_numpy(clean))) < 1
