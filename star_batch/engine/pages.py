"""Free pages of one layer group's pool. Integers only; knows no sequence and no tensor."""

import heapq


class PagePool:
    """Pages `0..num_pages-1`, free at first; the lowest go first, so that those in use lie close together."""

    def __init__(self, num_pages: int) -> None:
        self._free = list(range(num_pages))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """`count` free pages; at most `num_free` may be asked for."""
        return [heapq.heappop(self._free) for _ in range(count)]

    def give_back(self, pages: list[int]) -> None:
        """Pages that `take` handed out."""
        for page in pages:
            heapq.heappush(self._free, page)
