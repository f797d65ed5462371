"""Weights of linear layers in the order in which the processor's bfloat16 kernels read them. Knows no model.

In their usual order weights are rearranged at every call: a tenth of a prefill's time, a fifth of a decode step's.
The operators are those that `torch.compile` emits for frozen weights on CPU; results are the same bits.
"""

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A `nn.Linear` whose weights are in oneDNN's own order; it holds a copy of them, and the bias itself."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self._bias = linear.bias

    def forward(self, values: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(values, self._weight, self._bias, "none", [], "")
        return out


def pack_linears(module: nn.Module) -> None:
    """Replace the bfloat16 linear layers inside `module` where the processor has kernels for them."""
    if not _has_kernels():
        return
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear and child.weight.device.type == "cpu" and child.weight.dtype == torch.bfloat16:
                setattr(parent, name, PackedLinear(child))


def _has_kernels() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
