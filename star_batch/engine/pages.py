"""Free pages of one layer group's pool. Integers only; knows no sequence and no tensor.

Pages are handed out in one run where a run is long enough: a row whose pages lie side by side can be read
in place, without gathering them.
"""

from bisect import insort
from itertools import chain


class PagePool:
    """Pages `0..num_pages-1`, free at first."""

    def __init__(self, num_pages: int) -> None:
        self.num_free = num_pages
        self._runs = [range(num_pages)] if num_pages else []

    def take(self, count: int) -> list[int]:
        """`count` free pages, side by side if there is such a run; at most `num_free` may be asked for."""
        self.num_free -= count
        whole = next((index for index, run in enumerate(self._runs) if len(run) >= count), None)
        if whole is not None:
            return self._cut(whole, count)
        pieces: list[list[int]] = []
        while count:
            pieces.append(self._cut(0, min(count, len(self._runs[0]))))
            count -= len(pieces[-1])
        return list(chain.from_iterable(pieces))

    def give_back(self, pages: list[int]) -> None:
        """Pages that `take` handed out; neighbouring runs grow together again."""
        self.num_free += len(pages)
        for page in pages:
            insort(self._runs, range(page, page + 1), key=lambda run: run.start)
        self._runs = _merged(self._runs)

    def _cut(self, index: int, count: int) -> list[int]:
        run = self._runs[index]
        self._runs[index : index + 1] = [run[count:]] if len(run) > count else []
        return list(run[:count])


def _merged(runs: list[range]) -> list[range]:
    merged: list[range] = []
    for run in runs:
        if merged and merged[-1].stop == run.start:
            merged[-1] = range(merged[-1].start, run.stop)
        else:
            merged.append(run)
    return merged
