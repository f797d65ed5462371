"""Attention of one token per row on CPU, page by page and in place. Knows no cache beyond one layer's pages.

For the processor a row is a few thousand operations: too little for a call of its own, and copying all rows into one
tensor costs more than the attention. But pages have one size. All pages from the first to the last of what is in use
are one batch of small products; each knows whose it is, and the parts of a row are joined by their log-sum-exp.
"""

import torch
from torch import Tensor

_LEAST_SHARE = 1 / 2  # of the pages between the first and the last; below, copying those in use takes less time
_NEVER = 2**62
_HIDDEN = -1e30  # finite: a page of which nothing is seen must not become NaN


class PagewiseAttention:
    """Rows with `pages [B, P]` that hold `lengths [B]` tokens; a row's own first page fills up its line.

    Legend: `N` pages that are read, `M` at most of one row, `R` queries per key head `H_kv`.
    """

    def __init__(self, pages: Tensor, lengths: Tensor, page_size: int) -> None:
        before = torch.arange(pages.shape[1]) * page_size
        is_held = before < lengths.unsqueeze(1)
        row, index = is_held.nonzero(as_tuple=True)
        self._read, place, count = _reading(pages[is_held])
        self.num_read = count * page_size
        self._owner = torch.zeros(count, dtype=torch.int64).index_copy_(0, place, row)
        starts = torch.full((count,), _NEVER).index_copy_(0, place, before[index])
        left = lengths[self._owner] - starts
        is_seen = torch.arange(page_size) < left.unsqueeze(1)
        self._mask = torch.where(is_seen, 0.0, _HIDDEN)[:, None, None]
        # Never another row's page, not even at a weight of 0: that times its NaN would be NaN here.
        self._places = torch.zeros_like(pages).masked_scatter_(is_held, place)
        self._places = torch.where(is_held, self._places, self._places[:, :1])
        self._is_missing = ~is_held[:, :, None, None]

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """Of `[B, H_kv, R, d]` on `[pages, H_kv, page_size, d]`."""
        queries, (key, value) = (query * scaling)[self._owner], (pool[self._read] for pool in (keys, values))
        scores = _products(queries, key.mT).float().add_(self._mask)
        sums = scores.logsumexp(dim=-1)
        parts = _products(scores.sub_(sums.unsqueeze(-1)).exp_().to(value.dtype), value)
        return self._joined(parts, sums)

    def _joined(self, parts: Tensor, sums: Tensor) -> Tensor:
        """`[B, H_kv, R, d]` of every page's `[N, H_kv, R, d]` and its log-sum-exp `[N, H_kv, R]`."""
        shares = sums[self._places].masked_fill_(self._is_missing, -torch.inf).softmax(dim=1)
        joined: Tensor = (parts[self._places] * shares.unsqueeze(-1)).sum(dim=1)
        return joined


def _reading(held: Tensor) -> tuple[slice | Tensor, Tensor, int]:
    """What to read of a pool for pages `held [P]`, where each of them lies in that, and how many pages that is."""
    first, count = int(held.min()), int(held.max() - held.min()) + 1
    if len(held) >= _LEAST_SHARE * count:
        return slice(first, first + count), held - first, count
    return held, torch.arange(len(held)), len(held)


def _products(left: Tensor, right: Tensor) -> Tensor:
    """Of the last two dimensions; the first two are one batch."""
    products: Tensor = torch.bmm(left.flatten(0, 1), right.flatten(0, 1)).unflatten(0, left.shape[:2])
    return products
