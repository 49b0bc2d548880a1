"""The attention of a running batch beside a plain softmax over each request's own keys, in float64."""

from itertools import accumulate

import pytest
import torch
from torch import Tensor

from chatglm2.engines.attention import Plan

HEADS, GROUPS, WIDTH = 6, 2, 16
BATCHES = {
    "one new prompt": [(7, 7)],
    "new prompts": [(5, 5), (1, 1), (9, 9)],
    "a prompt after a shared beginning": [(4, 36)],
    "one answer": [(1, 20)],
    "answers of one length": [(1, 20)] * 3,
    "answers of all lengths": [(1, k) for k in (2, 3, 17, 100, 64, 65, 33)],
    "everything": [(1, 40), (6, 6), (1, 33), (3, 50), (1, 2), (1, 1)],
}


def _expected(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of the last tokens: query [heads, q, width], key and value [groups, k, width]."""
    key, value = (each.repeat_interleave(HEADS // GROUPS, dim=0).double() for each in (key, value))
    scores = query.double() @ key.transpose(1, 2) / WIDTH**0.5
    new, all_ = scores.shape[1:]
    later = torch.ones(new, all_, dtype=torch.bool).triu(all_ - new + 1)
    attended: Tensor = scores.masked_fill(later, float("-inf")).softmax(-1) @ value
    return attended


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_each_request_attends_to_its_own_tokens(batch: list[tuple[int, int]]) -> None:
    torch.manual_seed(1)
    query_ends, key_ends = ([0, *accumulate(each)] for each in zip(*batch, strict=True))
    all_new = query_ends == key_ends
    query = torch.randn(1, HEADS, query_ends[-1], WIDTH)
    cached = torch.randn(2, 1000, GROUPS, WIDTH)
    places = torch.randperm(1000)[: key_ends[-1]]
    plan = Plan.of(query_ends, key_ends, places[:0] if all_new else places)
    key, value = cached[:, places if all_new else plan.read].transpose(1, 2)[:, None]
    attended = torch.empty_like(query)
    for part in plan.parts:
        part.attend(query, key, value, None, attended)

    for i, _ in enumerate(batch):
        own = places[key_ends[i] : key_ends[i + 1]]
        new = slice(query_ends[i], query_ends[i + 1])
        expected = _expected(query[0, :, new], *cached[:, own].transpose(1, 2))
        torch.testing.assert_close(attended[0, :, new].double(), expected, rtol=1e-5, atol=1e-5)


def test_padding_reads_less_than_twice_what_is_there() -> None:
    lengths = [1500, 3, 70, 65, 900, 127, 1024]
    key_ends = [0, *accumulate(lengths)]
    plan = Plan.of(list(range(len(lengths) + 1)), key_ends, torch.arange(sum(lengths)))
    assert sum(lengths) <= len(plan.read) < 2 * sum(lengths)
