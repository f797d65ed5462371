"""Softmax attention of whole sequences, by what is fastest on the device. Knows no model and no cache.

On CPU the fused kernel of torch reaches a fifth of the matrix rate in bfloat16. Plain products over a block of
queries, whose scores stay in a core's cache, are up to twice as fast, and under a causal mask in float32 too.
Legend: `H` heads, `S` tokens of a sequence, `T` tokens of several packed ones, `R` queries of a block.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

_CAUSAL_BLOCK = 128
_FULL_BLOCK = 288


def lasting_kernels(device: torch.device) -> AbstractContextManager[None]:
    """Inside, torch's fused attention is one that needs nothing made for every new shape.

    cuDNN's does, on Hopper and since, and is torch's first choice there; in batches that are refilled most shapes are
    new.
    """
    if device.type != "cuda":
        return nullcontext()
    kernels: AbstractContextManager[None] = sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    )
    return kernels


def full_attention(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """Every query on every key of its sequence, `[B, H, S, d]` each."""
    if query.device.type != "cpu" or query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value, scale=scaling)
    out = torch.empty_like(query)
    for sequence, (queries, keys, values) in enumerate(zip(query, key, value, strict=True)):
        for block in _blocks(queries.shape[1], _FULL_BLOCK):
            weights = torch.bmm(queries[:, block] * scaling, keys.mT).softmax(dim=-1)
            out[sequence, :, block] = torch.bmm(weights, values)
    return out


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, lengths: Iterable[int], num_before: int = 0
) -> Tensor:
    """Causal attention `[H, T, d]` within packed sequences of `lengths`; keys and values `[H_kv, T, d]`.

    In blocks of queries, on any device: no padding, no copy of shared key heads. Each sequence may have keys of
    `num_before` more tokens than queries, before its own.
    """
    out, start, first = torch.empty_like(query), 0, 0
    for length in lengths:
        for block in _blocks(length, _CAUSAL_BLOCK):
            rows, seen = slice(start + block.start, start + block.stop), slice(first, first + num_before + block.stop)
            out[:, rows] = _causal_block(query[:, rows], key[:, seen], value[:, seen], scaling)
        start, first = start + length, first + num_before + length
    return out


def _blocks(length: int, size: int) -> list[slice]:
    """As few blocks of at most `size` as there must be, of like sizes."""
    count = -(-length // size)
    bounds = [length * index // count for index in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(bounds)]


def _causal_block(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """The last R tokens `[H, R, d]` on all keys up to each. Heads that share a key head are rows of one product."""
    num_rows, num_keys = query.shape[1], key.shape[1]
    grouped = query.unflatten(0, (key.shape[0], -1)).flatten(1, 2)
    shared = grouped.shape[1] // num_rows
    future = _future(num_rows, num_keys, shared, query.dtype, query.device)
    weights = torch.baddbmm(future, grouped, key.mT, alpha=scaling).softmax(dim=-1)
    out: Tensor = torch.bmm(weights, value).unflatten(1, (shared, num_rows)).flatten(0, 1)
    return out


@lru_cache(maxsize=64)  # the blocks of one prefill, which come again in every layer
def _future(num_rows: int, num_keys: int, shared: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Minus infinity where a key comes after the query, else 0: `[shared * R, keys]`."""
    infinite = torch.full((num_rows, num_keys), -torch.inf, dtype=dtype, device=device)
    return infinite.triu(num_keys - num_rows + 1).repeat(shared, 1)
