"""Decode steps as CUDA graphs: launched in one piece, they leave the host nothing to be late with.

A graph has fixed shapes and addresses. There is one per batch size of a short list, captured when that size is first
needed; a batch takes the next larger one, and the rows that are left over read and write a slot that belongs to
nobody. Knows no model: it is given the step.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor

from star_batch.engine.decode import DecodeInputs

Step: TypeAlias = Callable[[DecodeInputs], Tensor]
"""Logits `[B, V]` of a decode step."""

T = TypeVar("T")


class Capture(Protocol):
    """What runs once, to what runs it again on the same addresses."""

    def __call__(self, step: Callable[[], T], /) -> Callable[[], T]: ...


_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Graph:
    """The step of one batch size, and the fixed inputs that it reads."""

    inputs: DecodeInputs
    replay: Callable[[], Tensor]


class DecodeGraphs:
    """Graphs of `step` for up to `max_rows` rows of up to `max_pages` pages.

    `spare_pages`: for every layer group a page that no sequence owns.
    """

    def __init__(
        self,
        step: Step,
        capture: Capture,
        *,
        max_rows: int,
        max_pages: int,
        page_size: int,
        spare_pages: tuple[int, ...],
        device: torch.device,
    ) -> None:
        self._step = step
        self._capture = capture
        self._sizes = batch_sizes(max_rows)
        self._page_size = page_size
        self._spare_pages = spare_pages
        # One table for the graphs of all sizes: each reads its first rows.
        self._pages = tuple(torch.full((max_rows, max_pages), page, device=device) for page in spare_pages)
        self._held: tuple[Tensor, ...] = ()
        self._graphs: dict[int, _Graph | None] = {}

    def run(self, numbers: Tensor, pages: tuple[Tensor, ...]) -> Tensor | None:
        """Logits `[B, V]`, good until the next run; None if this size cannot be captured.

        `numbers [1 + 2 G, B]` on the host and `pages` as in `DecodeInputs`.
        """
        num_rows = numbers.shape[1]
        graph = self._graph(self._sizes[bisect_left(self._sizes, num_rows)])
        if graph is None:
            return None
        self._hold(pages)
        fixed = graph.inputs.numbers
        padded = _idle_numbers(len(pages), fixed.shape[1])
        padded[:, :num_rows] = numbers
        fixed.copy_(padded.pin_memory() if fixed.is_cuda else padded, non_blocking=True)
        return graph.replay()[:num_rows]

    def _graph(self, size: int) -> _Graph | None:
        if size not in self._graphs:
            self._graphs[size] = self._capture_size(size)
        return self._graphs[size]

    def _capture_size(self, size: int) -> _Graph | None:
        self._hold(())  # capturing runs the step, which must touch no page of a sequence
        numbers = _idle_numbers(len(self._pages), size).to(self._pages[0].device)
        inputs = DecodeInputs(numbers, tuple(table[:size] for table in self._pages), self._page_size)
        try:
            return _Graph(inputs, self._capture(lambda: self._step(inputs)))
        except Exception as error:  # what cannot be captured, or compiled, or has not the memory
            _logger.warning("decoding %d rows without a CUDA graph: %s", size, str(error).partition("\n")[0])
            return None

    def _hold(self, pages: tuple[Tensor, ...]) -> None:
        """These rows' pages in the tables, spare ones in all further rows."""
        if self._held is pages and pages:
            return
        for table, spare in zip(self._pages, self._spare_pages, strict=True):
            table[:, 0] = spare
        for table, rows in zip(self._pages, pages, strict=False):
            table[: rows.shape[0], : rows.shape[1]] = rows
        self._held = pages


def _idle_numbers(num_groups: int, size: int) -> Tensor:
    """Token 0 at position 0, alone in its row."""
    numbers = torch.zeros(1 + 2 * num_groups, size, dtype=torch.int64)
    numbers[1 : 1 + num_groups] = 1
    return numbers


def batch_sizes(max_rows: int) -> list[int]:
    """Powers of two, from 32 on multiples of 32, and `max_rows` itself: little padding, few graphs."""
    sizes = [1, 2, 4, 8, 16, *range(32, max_rows, 32)]
    return [*(size for size in sizes if size < max_rows), max_rows]


def capture_cuda(step: Callable[[], T], pool: Any = None) -> Callable[[], T]:
    """A CUDA graph of `step`, in memory of its own or in what all graphs of a `torch.cuda.graph_pool_handle` share.

    It is run first, outside: kernels are compiled then. Other threads of the process may go on using the device
    meanwhile.
    """
    side = _capture_stream(torch.cuda.current_device())
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with _own_workspaces(), torch.cuda.graph(graph, pool, stream=side, capture_error_mode="thread_local"):
        out = step()

    def replay() -> T:
        graph.replay()
        return out

    return replay


@cache
def _capture_stream(device: int) -> torch.cuda.Stream:
    """One for all captures of a device: each stream gets a workspace of cuBLAS that is never freed."""
    return torch.cuda.Stream(device)


@contextmanager
def _own_workspaces() -> Iterator[None]:
    """Whatever workspace cuBLAS makes inside belongs to the graph that is captured there.

    Else graphs would share the first one's, which goes when that graph does.
    """
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()
