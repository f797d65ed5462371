"""Attention of one decode step: one new token for each of several sequences, over the paged cache.

Knows no scheduler and no sampling. On CUDA the keys are read where they lie by a kernel of ours (`paged_attention`);
on CPU row by row, also in place; small models, and CUDA without Triton, gather them first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from star_batch.engine.kv_cache import KVCache

PagedAttention: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, float], Tensor]
"""`(query [B, H_kv, R, d], keys [H_kv, slots, d], values, pages [B, P], lengths [B], page_size, scaling)`."""


@dataclass(frozen=True, slots=True)
class DecodeInputs:
    """What a decode step is told, on the device; everything else it finds in the cache.

    `numbers [1 + 2 G, B]`: token ids, then for each of G layer groups the length of every row with the new token,
    then for each group its rotary position. `pages`: for each group those of every row, `[B, P]`.
    """

    numbers: Tensor
    pages: tuple[Tensor, ...]
    page_size: int

    @property
    def token_ids(self) -> Tensor:
        return self.numbers[0]

    def lengths(self, group: int) -> Tensor:
        return self.numbers[1 + group]

    def positions(self, group: int) -> Tensor:
        return self.numbers[1 + len(self.pages) + group]

    def new_slots(self, group: int) -> Tensor:
        """Where the new token of every row goes, `[B]`."""
        last = self.lengths(group) - 1
        page = self.pages[group].gather(1, (last // self.page_size).unsqueeze(1)).squeeze(1)
        return page * self.page_size + last % self.page_size


def choose_paged(device: torch.device) -> PagedAttention:
    """Our kernel where there are CUDA and Triton."""
    if device.type == "cuda" and find_spec("triton") is not None:
        from star_batch.engine.paged_attention import paged_attention

        return paged_attention
    return gathered_attention


class PagedDecode:
    """All rows in one kernel call."""

    def __init__(self, cache: KVCache, inputs: DecodeInputs, attention: PagedAttention) -> None:
        self._cache = cache
        self._inputs = inputs
        self._attention = attention
        self._new_slots = [inputs.new_slots(group) for group in range(len(inputs.pages))]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        group = self._cache.group_of(layer)
        self._cache.write(layer, self._new_slots[group], key, value)
        keys, values = self._cache.pools(layer)
        grouped = _grouped(query, key).to(self._cache.dtype)
        pages, lengths = self._inputs.pages[group], self._inputs.lengths(group)
        out = self._attention(grouped, keys, values, pages, lengths, self._inputs.page_size, scaling)
        return out.flatten(1, 2).transpose(0, 1).to(query.dtype)


def gathered_attention(
    query: Tensor, keys: Tensor, values: Tensor, pages: Tensor, lengths: Tensor, page_size: int, scaling: float
) -> Tensor:
    """Copies the pages of all rows and masks what is not held."""
    within = torch.arange(page_size, device=pages.device)
    slots = (pages.unsqueeze(-1) * page_size + within).flatten(1)
    is_held = torch.arange(slots.shape[1], device=pages.device) < lengths.unsqueeze(1)
    key, value = (pool[:, slots].transpose(0, 1) for pool in (keys, values))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=is_held[:, None, None], scale=scaling)


class InPlaceDecode:
    """Row by row, reading keys and values where they lie.

    A kernel call per row costs microseconds and spares copying the whole cache at every step: on CPU the
    better bargain for all but tiny models. `rows` holds, for every layer group, each row's slots: a slice
    where its pages lie side by side, else `[S]` indices, which are gathered.
    """

    def __init__(self, cache: KVCache, inputs: DecodeInputs, rows: Sequence[Sequence[slice | Tensor]]) -> None:
        self._cache = cache
        self._rows = rows
        self._new_slots = [inputs.new_slots(group) for group in range(len(inputs.pages))]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        group = self._cache.group_of(layer)
        self._cache.write(layer, self._new_slots[group], key, value)
        keys, values = self._cache.pools(layer)
        queries = _grouped(query, key).to(self._cache.dtype) * scaling
        rows = zip(queries, self._rows[group], strict=True)
        out = [_one_query(row_query, keys[:, slots], values[:, slots]) for row_query, slots in rows]
        return torch.stack(out).flatten(1, 2).transpose(0, 1).to(query.dtype)


def _one_query(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`[H_kv, R, d]` of one token, as plain products, which take less time than the fused kernel here."""
    return torch.bmm(torch.bmm(query, key.mT).softmax(dim=-1), value)


def _grouped(query: Tensor, key: Tensor) -> Tensor:
    """Queries `[H, B, d]` as `[B, H_kv, R, d]`: the R = H / H_kv heads of one key head are queries of one sequence."""
    grouped: Tensor = query.transpose(0, 1).unflatten(1, (key.shape[0], -1))
    return grouped
