"""Clusters of vectors are found where they are."""

import torch

from denoiser.model.clusters import cluster_means


def test_the_means_of_clusters_are_found() -> None:
    torch.manual_seed(1)
    centres = 10 * torch.randn(4, 8)
    vectors = centres.repeat_interleave(50, 0) + 0.1 * torch.randn(200, 8)
    means = cluster_means(vectors, 12)
    assert torch.cdist(centres, means).amin(1).max() < 0.2
    assert torch.cdist(means, centres).amin(1).max() < 0.5


def test_as_many_clusters_as_vectors_are_the_vectors() -> None:
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(cluster_means(vectors, 5).sort(0).values, vectors.sort(0).values)
