"""The paged kernel by Triton's interpreter, against attention over gathered pages; fails by an exception.

A program of its own: Triton has to be told before it is imported, and torch imports it.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

from itertools import product

import torch

from star_batch.engine import paged_kernel as kernel
from star_batch.engine.decode import GatheredAttention

PAGE = 4


def check(shared: int, width: int, splits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 2, shared, width, generator=generator)
    keys, values = (torch.randn(60, 2, PAGE, width, generator=generator) for _ in range(2))
    pages = torch.randperm(60, generator=generator).view(3, 20)
    lengths = torch.tensor([1, 70, 80])  # one token, part of a page, all pages
    kernel._num_splits = lambda *_: splits
    found = kernel.PagedKernel(pages, lengths, PAGE)(query, keys, values, 0.2)
    torch.testing.assert_close(found, GatheredAttention(pages, lengths, PAGE)(query, keys, values, 0.2))


if __name__ == "__main__":
    kernel.try_out(torch.device("cpu"))
    for (shared, width), splits in product([(1, 16), (4, 24), (7, 32)], [1, 3]):
        check(shared, width, splits)
        print(f"{shared} queries of width {width}, {splits} splits")
