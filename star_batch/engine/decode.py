"""Attention of one decode step: one new token for each of several sequences, over the paged cache.

Knows no scheduler and no sampling. Keys are read where they lie: on CUDA by a kernel of ours (`paged_kernel`), on CPU
page by page (`pagewise`). CUDA without Triton gathers them first.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from star_batch.engine.kv_cache import KVCache
from star_batch.engine.pagewise import PagewiseAttention

_logger = logging.getLogger(__name__)


class PagedAttention(Protocol):
    """Of queries `[B, H_kv, R, d]`, one token for every row, on what the rows' pages of a layer group hold."""

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """As many outputs; `keys` and `values` are a layer's `[pages, H_kv, page_size, d]`."""

    @property
    def num_read(self) -> int:
        """Keys of a head that are read, those of nobody included."""


MakePagedAttention: TypeAlias = Callable[[Tensor, Tensor, int], PagedAttention]
"""Of the rows' `pages [B, P]`, their `lengths [B]` in tokens, and the page size."""


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
        """Where the new token of every row goes, `[2, B]`."""
        last = self.lengths(group) - 1
        page = self.pages[group].gather(1, (last // self.page_size).unsqueeze(1)).squeeze(1)
        return torch.stack([page, last % self.page_size])


def choose_paged(device: torch.device) -> MakePagedAttention:
    """What reads keys in place, but on CUDA where Triton is missing or cannot compile."""
    if device.type == "cpu":
        return PagewiseAttention
    if device.type == "cuda" and find_spec("triton") is not None:
        from star_batch.engine.paged_kernel import PagedKernel, try_out

        try:
            try_out(device)
            return PagedKernel
        except Exception as error:  # Triton compiles at the first call: with a C compiler, for a device that it knows
            _logger.warning("decoding gathers its keys, which is slow: %s", str(error).partition("\n")[0])
    return GatheredAttention


class PagedDecode:
    """How the rows of one step attend in every layer."""

    def __init__(self, cache: KVCache, inputs: DecodeInputs, make: MakePagedAttention) -> None:
        self._cache = cache
        groups = range(len(inputs.pages))
        self._new_slots = [inputs.new_slots(group) for group in groups]
        self._attention = [make(inputs.pages[group], inputs.lengths(group), inputs.page_size) for group in groups]

    @property
    def num_read(self) -> int:
        """Keys of a head that are read in a layer of every group, those of nobody included."""
        return sum(attention.num_read for attention in self._attention)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        group = self._cache.group_of(layer)
        self._cache.write(layer, self._new_slots[group], key, value)
        grouped = _grouped(query, key).to(self._cache.dtype)
        out = self._attention[group](grouped, *self._cache.pools(layer), scaling)
        return out.flatten(1, 2).transpose(0, 1).to(query.dtype)


class GatheredAttention:
    """Copies the pages of all rows and masks what is not held: the plainest way, on any device."""

    def __init__(self, pages: Tensor, lengths: Tensor, page_size: int) -> None:
        self._pages = pages
        self.num_read = pages.numel() * page_size
        self._is_held = torch.arange(pages.shape[1] * page_size, device=pages.device) < lengths.unsqueeze(1)

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        key, value = (pool[self._pages].transpose(1, 2).flatten(2, 3) for pool in (keys, values))
        mask = self._is_held[:, None, None]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)


def _grouped(query: Tensor, key: Tensor) -> Tensor:
    """Queries `[H, B, d]` as `[B, H_kv, R, d]`: the R = H / H_kv heads of one key head are queries of one sequence."""
    grouped: Tensor = query.transpose(0, 1).unflatten(1, (key.shape[0], -1))
    return grouped
