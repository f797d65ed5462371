"""Weights in the processor's order: the same numbers come out."""

import pytest
import torch
from torch import nn

from star_batch.models.packing import PackedLinear, _has_kernels, pack_linears


def network(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.Sequential(nn.GELU(), nn.Linear(96, 40, bias=False))).to(dtype)


@pytest.mark.skipif(not _has_kernels(), reason="this processor or this torch has no bfloat16 kernels of oneDNN")
@pytest.mark.parametrize("shape", [(1, 64), (3, 64), (2, 70, 64)])
@torch.inference_mode()
def test_packed_layers_put_out_the_same(shape: tuple[int, ...]) -> None:
    model, values = network(torch.bfloat16), torch.randn(shape).bfloat16()
    expected = model(values)
    pack_linears(model)
    assert [type(m) for m in model.modules()].count(PackedLinear) == 2
    assert model(values).equal(expected)


def test_float32_is_left_alone() -> None:
    model = network(torch.float32)
    pack_linears(model)
    assert not any(isinstance(m, PackedLinear) for m in model.modules())
