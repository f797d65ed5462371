"""Causal attention of packed sequences: which kernel runs where. Knows no cache and no layer.

| device | dtype | kernel |
|---|---|---|
| CPU | any | blocks of queries, as plain products |
| CUDA | bfloat16, float16 | torch's variable-length flash attention: one call, no padding |
| any | other | torch's fused kernel, a call for each run of equally long sequences |
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, groupby
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from star_batch.models.attention import causal_attention

Causal: TypeAlias = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""`(query [H, T, d], key [H_kv, T, d], value [H_kv, T, d], scaling) -> [H, T, d]`, each sequence for itself."""


def choose_causal(lengths: Sequence[int], device: torch.device, dtype: torch.dtype) -> Causal:
    """The kernel for sequences of `lengths`, packed one after the other."""
    if device.type == "cpu":
        return partial(causal_attention, lengths=lengths)
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        return _Varlen(lengths, device)
    return partial(attend_by_runs, lengths=lengths)


class _Varlen:
    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).pin_memory()
        self._bounds = bounds.to(device, non_blocking=True)
        self._longest = max(lengths)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn  # CUDA only

        q, k, v = (repeat_heads(x, query.shape[0]).transpose(0, 1).contiguous() for x in (query, key, value))
        bounds, longest = self._bounds, self._longest
        # A window without end to the left and nothing to the right: causal.
        out = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scaling, window_size=(-1, 0))
        assert isinstance(out, Tensor)
        return out.transpose(0, 1)


def attend_by_runs(query: Tensor, key: Tensor, value: Tensor, scaling: float, lengths: Sequence[int]) -> Tensor:
    """Neighbours of equal length share a kernel call."""
    heads, parts, start = query.shape[0], [], 0
    for length, run in groupby(lengths):
        count = len(list(run))
        tokens = slice(start, start + count * length)
        q, k, v = (repeat_heads(x[:, tokens], heads).unflatten(1, (count, -1)) for x in (query, key, value))
        parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling).flatten(1, 2))
        start = tokens.stop
    return torch.cat(parts, dim=1)


def repeat_heads(heads: Tensor, num_heads: int) -> Tensor:
    """Key or value heads `[H_kv, T, d]`, each as often as query heads share it."""
    repeats = num_heads // heads.shape[0]
    return heads if repeats == 1 else heads.repeat_interleave(repeats, 0)
