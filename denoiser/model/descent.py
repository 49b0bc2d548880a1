"""Gradient descent on a network: its rate, the average of its weights, and its progress; on a GPU as one CUDA graph."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from denoiser.model.examples import Examples
from denoiser.model.network import Network

_WARM_UP = 200
_REPORT_EVERY, _REPORTS = 50, 40  # steps; of a short run as many reports
_BEFORE_GRAPH = 3  # steps outside a graph, in which libraries make their buffers


@dataclass(frozen=True)
class Objective:
    """What a network learns: `loss` of examples that `draw` gives, of one shape; what to minimise, and what to tell.

    `parameters` are what the loss depends on besides the network.
    """

    draw: Callable[[], Examples]
    loss: Callable[[Network, Examples], tuple[Tensor, Tensor]]
    parameters: Sequence[nn.Parameter] = ()


class Descent:
    """Runs of some steps, each with a rate that rises and falls, and progress through them all."""

    def __init__(self, steps: int, average: float, progress: Callable[[int, float], None]) -> None:
        self._steps, self._average, self._progress = steps, average, progress
        self._report_every = max(1, min(_REPORT_EVERY, steps // _REPORTS))
        self._done = 0

    def run(self, start: Network, objective: Objective, steps: int, rate: float) -> Network:
        """A network that has gone on from `start`, averaged."""
        network = deepcopy(start).train().requires_grad_()
        averaged = deepcopy(network).requires_grad_(requires_grad=False)
        rate_now, change = torch.zeros(2, device=network.mean.device).unbind()
        learnt = [*network.parameters(), *objective.parameters]
        optimiser = torch.optim.AdamW(learnt, lr=rate_now, fused=True, capturable=rate_now.is_cuda)

        def step(examples: Examples) -> Tensor:
            minimised, told = objective.loss(network, examples)
            optimiser.zero_grad()
            torch.autograd.backward(minimised)
            optimiser.step()
            _average(averaged, network, change)
            return told

        descend = _as_graph(step, objective.draw()) if rate_now.is_cuda else step
        for number in range(steps):
            rate_now.fill_(rate * _rise_and_fall(number, steps))
            change.fill_(1 - min(self._average, (number + 1) / (number + 10)))
            told = descend(objective.draw())
            self._done += 1
            if self._done % self._report_every == 0 or self._done == self._steps:
                self._progress(self._done, told.item())
        return averaged


def _as_graph(step: Callable[[Examples], Tensor], examples: Examples) -> Callable[[Examples], Tensor]:
    """The step as one CUDA graph: its kernels take less time than it takes to launch them one by one.

    It is recorded with `examples`, while the rate is 0.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_BEFORE_GRAPH):
            step(examples)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        told = step(examples)

    def replay(others: Examples) -> Tensor:
        examples.copy_(others)
        graph.replay()
        return told

    return replay


def _rise_and_fall(step: int, steps: int) -> float:
    warm_up = min(_WARM_UP, steps // 10 + 1)
    return min(1.0, (step + 1) / warm_up) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


@torch.no_grad()
def _average(averaged: Network, network: Network, change: Tensor) -> None:
    for mean, latest in zip(averaged.parameters(), network.parameters(), strict=True):
        mean.lerp_(latest, change)
