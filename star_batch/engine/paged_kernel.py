"""Paged attention of single queries, as a Triton kernel: keys and values are read where they lie. CUDA only.

Heads that share a key head are rows of one product, so shared keys are read once. Where rows and heads alone do not
fill the device, a row's keys are split among programs and their results are joined by their log-sum-exp.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 64  # keys at a time
_PROGRAMS_PER_PROCESSOR = 4
_LEAST_PER_SPLIT = 256


class PagedKernel:
    """Rows with `pages [B, P]` that hold `lengths [B]` tokens."""

    def __init__(self, pages: Tensor, lengths: Tensor, page_size: int) -> None:
        self._pages = pages
        self._lengths = lengths
        self._page_size = page_size

    @property
    def num_read(self) -> int:
        return int(self._lengths.sum())

    def __call__(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """Of `[B, H_kv, R, d]` on `[pages, H_kv, page_size, d]`.

        The grid depends on shapes alone, so a CUDA graph can hold it.
        """
        query = query.contiguous()
        num_rows, num_kv, shared, width = query.shape
        splits = _num_splits(num_rows * num_kv, self._pages.shape[1] * self._page_size, query.device)
        out = torch.empty(num_rows, num_kv, splits, shared, width, dtype=torch.float32, device=query.device)
        log_sums = torch.empty(out.shape[:-1], dtype=torch.float32, device=query.device)
        _attend[(num_rows, num_kv, splits)](
            *(query, keys, values, self._pages, self._lengths, out, log_sums, scaling),
            *(self._pages.stride(0), *keys.stride()[:3]),
            PAGE=self._page_size,
            SHARED=shared,
            SHARED_PADDED=max(16, triton.next_power_of_2(shared)),
            WIDTH=width,
            WIDTH_PADDED=max(16, triton.next_power_of_2(width)),
            BLOCK=_BLOCK,
        )
        if splits == 1:
            return out[:, :, 0].to(query.dtype)
        return (log_sums.softmax(dim=2).unsqueeze(-1) * out).sum(dim=2).to(query.dtype)


def try_out(device: torch.device) -> None:
    """One row of one token; raises whatever keeps the kernel from running."""
    pool = torch.zeros(1, 1, 16, 16, device=device)
    first = torch.zeros(1, 1, dtype=torch.int64, device=device)
    with torch.cuda.device_of(pool):  # Triton launches on the current device, whosever the tensors are
        PagedKernel(first, first[0] + 1, page_size=16)(pool[:, :, :1], pool, pool, 1.0)


def _num_splits(num_programs: int, longest: int, device: torch.device) -> int:
    """Enough to fill the device, but none of them idle on a long row."""
    if device.type != "cuda":
        return -(-longest // _LEAST_PER_SPLIT)
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    wanted = -(-_PROGRAMS_PER_PROCESSOR * processors // num_programs)
    return max(1, min(wanted, longest // _LEAST_PER_SPLIT))


@triton.jit
def _attend(
    query,
    keys,
    values,
    pages,
    lengths,
    out,
    log_sums,
    scaling,
    pages_stride,
    page_stride,
    head_stride,
    slot_stride,
    PAGE: tl.constexpr,
    SHARED: tl.constexpr,
    SHARED_PADDED: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    splits = tl.num_programs(2)
    place = (row * tl.num_programs(1) + head).to(tl.int64)
    first, last = _share(tl.load(lengths + row), split, splits)

    dims = tl.arange(0, WIDTH_PADDED)
    rows = tl.arange(0, SHARED_PADDED)
    is_dim = dims < WIDTH
    is_used = (rows < SHARED)[:, None] & is_dim[None, :]
    within = rows[:, None] * WIDTH + dims[None, :]
    q = tl.load(query + place * SHARED * WIDTH + within, mask=is_used, other=0.0)

    best = tl.full([SHARED_PADDED], float("-inf"), tl.float32)
    total = tl.zeros([SHARED_PADDED], tl.float32)
    result = tl.zeros([SHARED_PADDED, WIDTH_PADDED], tl.float32)
    for start in range(first, last, BLOCK):
        tokens = start + tl.arange(0, BLOCK)
        is_held = tokens < last
        page = tl.load(pages + row.to(tl.int64) * pages_stride + tokens // PAGE, mask=is_held, other=0).to(tl.int64)
        places = page * page_stride + head * head_stride + (tokens % PAGE) * slot_stride
        offsets = places[:, None] + dims[None, :]
        is_read = is_held[:, None] & is_dim[None, :]
        so_far = best, total, result
        best, total, result = _add_keys(q, keys, values, offsets, is_held, is_read, scaling, so_far)

    # A split without keys has a total of 0 and weighs nothing when the splits are joined.
    target = place * splits + split
    tl.store(out + target * SHARED * WIDTH + within, result / tl.maximum(total, 1e-38)[:, None], mask=is_used)
    tl.store(log_sums + target * SHARED + rows, best + tl.log(total), mask=rows < SHARED)


@triton.jit
def _share(length, split, splits):
    """The first token of a split, and the one after its last."""
    share = (length + splits - 1) // splits
    return split * share, tl.minimum(split * share + share, length)


@triton.jit
def _add_keys(q, keys, values, offsets, is_held, is_read, scaling, so_far):
    """What a block of keys adds to the softmax so far: its highest logit, its sum below that, its weighted values."""
    best, total, result = so_far
    k = tl.load(keys + offsets, mask=is_read, other=0.0)
    logits = tl.dot(q, tl.trans(k), input_precision="ieee") * scaling
    logits = tl.where(is_held[None, :], logits, float("-inf"))
    new_best = tl.maximum(best, tl.max(logits, axis=1))
    weights = tl.exp(logits - new_best[:, None])
    rescale = tl.exp(best - new_best)
    v = tl.load(values + offsets, mask=is_read, other=0.0)
    result = result * rescale[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    return new_best, total * rescale + tl.sum(weights, axis=1), result
