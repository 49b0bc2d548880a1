"""Linear layers laid out for oneDNN beside PyTorch's own, in float64."""

import pytest
import torch
from torch import nn

from chatglm2.engines.linear import USABLE, PackedLinear, pack

pytestmark = pytest.mark.skipif(not USABLE, reason="this PyTorch has no oneDNN, or the processor is not x86")


@pytest.mark.parametrize("rows", [1, 2, 16, 33, 500])
@pytest.mark.parametrize("bias", [True, False])
def test_rows_of_any_number_give_what_the_layer_gives(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    layer, batch = nn.Linear(96, 200, bias=bias), torch.randn(1, rows, 96)
    with torch.inference_mode():
        expected = layer.double()(batch.double())
        found = PackedLinear(layer.float())(batch)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    layer, batch = nn.Linear(64, 64), torch.randn(3, 64)
    batch[1, 5] = float("nan")
    with torch.inference_mode():
        found = PackedLinear(layer)(batch)
    assert found.isfinite().all(1).tolist() == [True, False, True]


def test_only_float32_is_laid_out() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8).bfloat16(), nn.LayerNorm(8)))
    pack(model)
    assert [type(layer) for layer in model.modules() if not isinstance(layer, nn.Sequential)] == [
        PackedLinear,
        nn.Linear,
        nn.LayerNorm,
    ]
