"""What the sampler does with logits before any token is chosen."""

import pytest
import torch

from chatglm2.engines.sampler import NonFiniteLogitsError, require_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_not_finite_is_found_in_any_place(dtype: torch.dtype, value: float) -> None:
    for place in (0, 500, 999):
        logits = torch.randn(3, 1000).to(dtype)
        logits[1, place] = value
        with pytest.raises(NonFiniteLogitsError):
            require_finite(logits)


@pytest.mark.parametrize("logits", [torch.full((2, 9), 6e4, dtype=torch.float16), torch.empty(0, 9)])
def test_finite_logits_come_back_as_they_were(logits: torch.Tensor) -> None:
    assert require_finite(logits) is logits
