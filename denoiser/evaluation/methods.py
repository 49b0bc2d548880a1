"""What is measured: both modes of a denoiser, and what they are compared with."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from denoiser.model.denoise import Denoiser
from denoiser.model.encoder import Embeddings, fast_precision
from denoiser.model.seeding import seeded

_AUTOENCODER_STEPS, _AUTOENCODER_LEVEL = 3000, 0.1

Method = Callable[[Embeddings, float], Embeddings]
"""Noisy embeddings [n, width] and their noise level to estimates [n, width]."""


def methods_of(denoiser: Denoiser, more: dict[str, Method] | None = None) -> dict[str, Method]:
    """The baselines and both modes of a denoiser, knowing the noise level."""
    network = denoiser.network

    def wiener(noisy: Embeddings, level: float) -> Embeddings:
        levels = torch.full((len(noisy), 1), level)
        return np.asarray(network.wiener(torch.from_numpy(noisy), levels).numpy())

    return {
        "identity": lambda noisy, _: noisy,
        "zeros": lambda noisy, _: np.zeros_like(noisy),
        "Wiener": wiener,
        **(more or {}),
        "reconstruct": lambda noisy, level: denoiser.denoise(noisy, np.full(len(noisy), level), "reconstruct"),
        "neighbours": lambda noisy, level: denoiser.denoise(noisy, np.full(len(noisy), level), "neighbours"),
        "adapted": lambda noisy, level: _adapt(denoiser, noisy, level),
    }


def _adapt(denoiser: Denoiser, noisy: Embeddings, level: float) -> Embeddings:
    return denoiser.adapted(noisy, level).denoise(noisy, np.full(len(noisy), level))


def train_autoencoder(clean: Embeddings, seed: int) -> Method:
    """A plain denoising autoencoder, 384-256-128-256-384 with ReLU, trained on noise of level 0.1 by squared error."""
    with seeded(seed):
        width = clean.shape[1]
        sizes = (width, 256, 128, 256, width)
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        network = nn.Sequential(*layers[:-1])
        optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
        vectors = torch.from_numpy(clean)
        for _ in range(_AUTOENCODER_STEPS):
            batch = vectors[torch.randint(len(vectors), (256,))]
            with fast_precision():
                estimate = network(batch + _AUTOENCODER_LEVEL * torch.randn_like(batch))
            loss = functional.mse_loss(estimate.float(), batch)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
    network.requires_grad_(requires_grad=False)
    return lambda noisy, _: np.asarray(network(torch.from_numpy(noisy)).numpy())
