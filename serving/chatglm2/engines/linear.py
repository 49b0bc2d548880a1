"""Linear layers on a CPU by oneDNN, with weights laid out for its kernels once.

PyTorch itself gives float32 to MKL, which multiplies a few rows in one thread on some processors, and a step of a
running batch has one row a request. Other types go through oneDNN anyway.
"""

import platform
from typing import Any, cast

import torch
from torch import Tensor, nn

USABLE = torch._C._has_mkldnn and platform.machine() in ("x86_64", "AMD64")
"""Whether this PyTorch has oneDNN, on the processors it was measured on."""

_ROWS = 16
"""How many the layout is chosen for; any number may come."""


class PackedLinear(nn.Module):
    """What an `nn.Linear` in float32 computes, but for rounding. The layer's own weights are not kept."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [..., inputs] to [..., outputs]."""
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], ""))


def pack(model: Any) -> None:
    """Replace the linear layers of a model that is on a CPU, where they are float32 and oneDNN is usable."""
    if not USABLE:
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer.weight.dtype == torch.float32:
                setattr(parent, name, PackedLinear(layer))
