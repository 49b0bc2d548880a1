"""Clean embeddings that a network knows, because it was trained further on them, and recognises in noisy ones.

A noisy vector is a known one plus noise, or near a known one, or of other text. Its density is a mixture of three: a
Gaussian around each known vector, a wider one around the likeliest of them, and one of all text, whose covariance the
network has; Bayes' rule gives the share of the first. Real text is far from Gaussian: where there is text, it is much
denser than the Gaussian says. By how much was chosen on development text: at noise 0.1, of 1,800 sentences like the
known ones, one in 150 at most was taken for one of them. Text of other kinds is dense around means of its own: without
these, one Chinese quotation in eight was taken for Chinese help at noise 0.1, with them one in forty.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from denoiser.model.neighbours import unlike
from denoiser.model.network import Network

MOST = 60_000  # as many as a training job takes
_SAME = 0.999  # cosine; more alike vectors are kept once
_NEAR = 0.3  # variance around a known vector, as a share of that of all text
# Natural logarithms of how much denser English prose, and other text, is than a Gaussian. With 25 for both, .3 of known
# Chinese sentences were recognised at noise 0.1, with 15 .6; with 14 clean queries began to lose in Greek.
_DENSER, _OTHER_DENSER = 25.0, 15.0
_CANDIDATES = 8  # of the known vectors, the most similar; with 32 nothing was found that these do not find
_LEAST_LEVEL = 1e-15  # its square, and what is divided by it, are in the range of float32
_ROWS = 512  # at once: they are compared with all that is known
# How much shorter what a vector does not share with its cluster is made, of how much shorter what it shares is. At
# noise 0.1 clean queries found, with 0, 0.3 and 0.5: .46, .47 and .45 in essays, half of which were known (.32 with
# none known); .40, .44 and .46 in interface definitions, a tenth of which were (.47).
_UNSHARED = 0.3


def remember(network: Network, clean: Tensor) -> None:
    """Add clean embeddings [n, width], n > 0, to those known; of more than 60,000 the oldest are forgotten."""
    new = clean[:MOST]
    old = network.known[unlike(network.known, new, _SAME)]
    network.known = torch.cat([new, old])[:MOST]


def recall(network: Network, noisy: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """How likely noisy embeddings [n, width] of noise levels [n, 1] are known ones: [n, 1]; and which: [n, width].

    The latter are means of known vectors by their likelihood. Levels are above 0; those below 1e-15 count as that.
    """
    parts = zip(torch.split(noisy, _ROWS), torch.split(level.clamp_min(_LEAST_LEVEL), _ROWS), strict=True)
    likely, known = zip(*(_recall(network, *part) for part in parts), strict=True)
    return torch.cat(likely), torch.cat(known)


def _recall(network: Network, noisy: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    nearest = (noisy @ network.known.T).topk(min(_CANDIDATES, len(network.known)), dim=1).indices
    known, variance = network.known[nearest], level**2
    with torch.autocast(noisy.device.type, enabled=False):  # precise from here on
        alike = ((noisy[:, None] - known) ** 2).sum(2) / (-2 * variance)
        same = alike.logsumexp(1, keepdim=True) - noisy.shape[1] / 2 * variance.log()
        near = _log_density((noisy - known[:, 0]) @ network.axes, _NEAR * network.variances + variance)
        centred = network.rotate(noisy)
        english = _log_density(centred, network.variances + variance)
        kinds = network.log_kinds(centred, level)
        denser = torch.full_like(kinds, _OTHER_DENSER)
        denser[:, 0] = _DENSER
        other = english - kinds[:, :1] + (kinds + denser).logsumexp(1, keepdim=True)
        others = torch.logaddexp(near, other + math.log(len(network.known)))
        return (same - others).sigmoid(), (alike.softmax(1)[:, :, None] * known).sum(1)


def comparable(network: Network, known: Tensor, noisy: Tensor, level: Tensor, found: Tensor) -> Tensor:
    """Known embeddings for search [n, width], as alike to other text as unit vectors found in their place [n, width].

    A denoised vector is less like everything than the clean one, for part of it is noise. Where few rows of a store are
    recognised, these would be nearer to every query than rows that truly are near, the more so the more all text of a
    kind is alike: with 150 of 1,500 Chinese sentences known, clean queries found .34 of their neighbours in the others
    at noise 0.05, instead of .61 with none known. So what a vector has in common with its clusters is as short here as
    in what was found, and the rest somewhat shorter. What is missing is filled along the last axes, where it changes
    similarities to clean text least: half with the vector's own noise, half with a copy of what it does not share, by
    which known vectors are still told from each other.
    """
    known = functional.normalize(known)
    shared = network.common(network.rotate(noisy), level)
    common = torch.lerp(shared, known, _UNSHARED)
    lost = (((found - known) ** 2).sum(1, keepdim=True) / 2).clamp_max(1)  # 1 - their cosine, precise near 0
    missing = lost * (2 * (known * common).sum(1, keepdim=True) - lost * (common**2).sum(1, keepdim=True))
    # At noise 0.1, with all of a store known, noisy queries found in it, filled with noise, with both, and with the
    # copy: .48, .53 and .57 in translated rules, .37, .45 and .53 in Chinese quotations; clean queries in the latter, a
    # tenth known: .34, .34, .31 (.32 with none known).
    quiet = network.last_axes
    first = network.axes[:, : quiet.shape[1]]
    noise, copy = (functional.normalize(v) for v in ((noisy - known) @ quiet, (known - shared) @ first))
    filling = functional.normalize(noise + copy) @ quiet.T
    return functional.normalize(known - lost * common + missing.clamp_min(0).sqrt() * filling)


def _log_density(coordinates: Tensor, variances: Tensor) -> Tensor:
    """Of coordinates [n, width] under Gaussians of these variances, but for a constant: [n, 1]."""
    return -(coordinates**2 / variances + variances.log()).sum(1, keepdim=True) / 2
