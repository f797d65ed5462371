"""Keys and values in pages, one pool per layer group. Knows no sequence: it is given slots.

A slot is the place of one token: its page and its offset in there. Layers before a late step hold more
tokens of a sequence than those after it, so each group of layers has pages, and slots, of its own.
"""

import math
from collections.abc import Sequence as Seq
from pathlib import Path

import psutil
import torch
from torch import Tensor

from star_batch.errors import ConfigError
from star_batch.models import VisionLanguageModel

_CPU_SHARE, _CUDA_SHARE = 0.25, 0.85  # of the free memory; the rest is for weights' workspaces and activations


class KVCache:
    """Two tensors `[pages, H_kv, page_size, d]` for every layer, filled by slot and read by page.

    One head's keys in a page are one block of memory, and so are those of all heads in all pages side by side.
    """

    def __init__(
        self, model: VisionLanguageModel, layer_groups: Seq[range], num_pages: Seq[int], page_size: int
    ) -> None:
        self._group_of = [group for group, layers in enumerate(layer_groups) for _ in layers]
        shapes = [(num_pages[group], model.num_kv_heads, page_size, model.head_dim) for group in self._group_of]
        # Zeros, not empty: a masked slot is still multiplied by its weight of 0, and 0 x NaN is NaN.
        self.dtype = cache_dtype(model)
        self._keys = [torch.zeros(shape, dtype=self.dtype, device=model.device) for shape in shapes]
        self._values = [torch.zeros_like(keys) for keys in self._keys]

    def group_of(self, layer: int) -> int:
        return self._group_of[layer]

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Store keys and values `[H_kv, T, d]` in slots `[2, T]`."""
        page, offset = slots
        self._keys[layer][page, :, offset] = key.transpose(0, 1).to(self.dtype)
        self._values[layer][page, :, offset] = value.transpose(0, 1).to(self.dtype)

    def pools(self, layer: int) -> tuple[Tensor, Tensor]:
        """All keys and all values of a layer, `[pages, H_kv, page_size, d]`."""
        return self._keys[layer], self._values[layer]

    def wipe(self, layer: int, pages: Tensor) -> None:
        """Zeros in pages `[P]`."""
        self._keys[layer].index_fill_(0, pages, 0.0)
        self._values[layer].index_fill_(0, pages, 0.0)


def cache_dtype(model: VisionLanguageModel) -> torch.dtype:
    """The model's own, but float32 on CPU: few processors multiply small bfloat16 matrices, none that we saw faster."""
    return torch.float32 if model.device.type == "cpu" else model.dtype


def num_pages(
    model: VisionLanguageModel,
    layer_groups: Seq[range],
    lengths: Seq[int],
    *,
    page_size: int,
    max_rows: int,
    memory_gib: float | None,
    memory_share: float | None = None,
) -> tuple[int, ...]:
    """Pages per layer group: for as many rows of `lengths` tokens as the memory holds.

    Without `memory_gib` for no more than `max_rows` such rows, or one of the model's whole context.
    """
    page_bytes = 2 * page_size * model.num_kv_heads * model.head_dim * cache_dtype(model).itemsize
    per_row = [-(-length // page_size) for length in lengths]
    row_bytes = sum(pages * len(layers) * page_bytes for pages, layers in zip(per_row, layer_groups, strict=True))
    if memory_gib is not None:
        rows = memory_gib * 2**30 / row_bytes
    else:
        whole_context = model.context_length / page_size / min(per_row)
        rows = min(max(max_rows, whole_context), free_memory(model.device, memory_share) / row_bytes)
    return tuple(int(pages * rows) for pages in per_row)


def free_memory(device: torch.device, share: float | None = None) -> float:
    """Bytes that a cache may take: a share of what is free on the device, on CPU within the container's limit.

    `share` is the part of a GPU that is this process's, where several work on it.

    Raises:
        ConfigError: the share is full of weights already, or the GPU is.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        own = torch.cuda.memory_reserved(device)
        room = gpu_room(free, total, own=own, share=share or 1.0)
        if share is not None and not room:
            sizes = f"{share * total / 2**30:.1f} of {total / 2**30:.1f} GiB"
            raise ConfigError(f"memory_share {share:g}: {sizes}, and the weights alone take {own / 2**30:.1f} GiB")
        return room
    available: int = psutil.virtual_memory().available
    return _CPU_SHARE * min(available, _cgroup_memory())


def gpu_room(free: float, total: float, *, own: float, share: float) -> float:
    """Bytes for a cache on a GPU of which `share` belongs to a process that has taken `own` already, for its weights.

    Each of several gets the same, whoever comes first: what is free says only what the others have not taken yet.
    """
    return _CUDA_SHARE * max(0.0, min(free, share * total - own))


def _cgroup_memory() -> float:
    """What the container may still take; infinite outside of one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return math.inf
    return math.inf if limit == "max" else float(limit) - float(used)
