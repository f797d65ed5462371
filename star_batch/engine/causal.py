"""Causal attention of packed sequences: which kernel runs where. Knows no cache and no layer.

| device | dtype | kernel |
|---|---|---|
| CPU | any | blocks of queries, as plain products |
| CUDA, since Ampere | bfloat16, float16 | torch's variable-length flash attention: one call, no padding |
| any | other | torch's fused kernel, a call for each run of equally long sequences |
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, groupby
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from star_batch.engine.upload import upload
from star_batch.models.attention import causal_attention

Causal: TypeAlias = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""`(query [H, T, d], key [H_kv, T, d], value [H_kv, T, d], scaling) -> [H, T, d]`, each sequence for itself."""

_FLASH_WIDTH = 8  # of which the flash kernel wants a multiple; torch's fused one fills up


def choose_causal(lengths: Sequence[int], device: torch.device, dtype: torch.dtype, num_before: int = 0) -> Causal:
    """The kernel for sequences of `lengths`, packed one after the other.

    Each has keys and values of `num_before` more tokens, before its own.
    """
    if device.type == "cpu":
        return partial(causal_attention, lengths=lengths, num_before=num_before)
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and _has_flash(device):
        return _Varlen(lengths, device, num_before)
    return partial(attend_by_runs, lengths=lengths, num_before=num_before)


def _has_flash(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


class _Varlen:
    def __init__(self, lengths: Sequence[int], device: torch.device, num_before: int) -> None:
        self._by_runs = partial(attend_by_runs, lengths=lengths, num_before=num_before)
        self._query_bounds = _bounds(lengths, device)
        # The very same tensor where lengths are the same: some kernels take nothing else for causal attention.
        with_before = [num_before + length for length in lengths]
        self._key_bounds = _bounds(with_before, device) if num_before else self._query_bounds
        self._longest_query, self._longest_key = max(lengths), max(with_before)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        if query.shape[-1] % _FLASH_WIDTH:
            return self._by_runs(query, key, value, scaling)
        from torch.nn.attention.varlen import varlen_attn  # CUDA only

        q, k, v = (repeat_heads(x, query.shape[0]).transpose(0, 1).contiguous() for x in (query, key, value))
        bounds, longest = (self._query_bounds, self._key_bounds), (self._longest_query, self._longest_key)
        # A window without end to the left and nothing to the right: causal, the last query on all keys.
        out = varlen_attn(q, k, v, *bounds, *longest, scale=scaling, window_size=(-1, 0))
        assert isinstance(out, Tensor)
        return out.transpose(0, 1)


def _bounds(lengths: Sequence[int], device: torch.device) -> Tensor:
    return upload(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), device)


def attend_by_runs(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, lengths: Sequence[int], num_before: int = 0
) -> Tensor:
    """Neighbours of equal length share a kernel call."""
    heads, parts, start, first = query.shape[0], [], 0, 0
    for length, run in groupby(lengths):
        count = len(list(run))
        queries = slice(start, start + count * length)
        keys = slice(first, first + count * (num_before + length))
        q = query[:, queries].unflatten(1, (count, -1))
        k, v = (repeat_heads(x[:, keys], heads).unflatten(1, (count, -1)) for x in (key, value))
        is_seen = torch.ones(length, num_before + length, dtype=torch.bool, device=q.device).tril(num_before)
        masked = {"attn_mask": is_seen} if num_before else {"is_causal": True}
        parts.append(F.scaled_dot_product_attention(q, k, v, scale=scaling, **masked).flatten(1, 2))
        start, first = queries.stop, keys.stop
    return torch.cat(parts, dim=1)


def repeat_heads(heads: Tensor, num_heads: int) -> Tensor:
    """Key or value heads `[H_kv, T, d]`, each as often as query heads share it."""
    repeats = num_heads // heads.shape[0]
    return heads if repeats == 1 else heads.repeat_interleave(repeats, 0)
