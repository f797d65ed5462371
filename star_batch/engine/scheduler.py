"""Who runs next: integers in, a batch out. Knows no tensor, no model and no text.

A sequence's worst case is known when it is admitted, so its pages are reserved then and nothing is
ever preempted. The oldest waiting sequence leads a prefill batch and those nearest to it in
post-pruning length fill it: like lengths go together and nobody waits for ever.
"""

from dataclasses import dataclass, replace

from star_batch.engine.pages import PagePool
from star_batch.engine.sequence import Sequence
from star_batch.metrics import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be in flight: decode slots, tokens of one prefill, KV pages per layer group."""

    max_rows: int
    max_prefill_tokens: int
    page_size: int
    num_pages: tuple[int, ...]

    def pages_for(self, sequence: Sequence) -> tuple[int, ...]:
        """Pages per layer group that hold the sequence's worst case."""
        return tuple(-(-capacity // self.page_size) for capacity in sequence.capacities)

    def admits(self, sequence: Sequence) -> bool:
        """Whether it fits into an empty cache."""
        return all(need <= have for need, have in zip(self.pages_for(sequence), self.num_pages, strict=True))


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences that the next step runs together."""

    phase: Phase
    sequences: list[Sequence]


class Scheduler:
    """Waiting and running sequences, and the free pages of each layer group."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._pools = [PagePool(count) for count in budget.num_pages]

    @property
    def num_free_pages(self) -> tuple[int, ...]:
        return tuple(pool.num_free for pool in self._pools)

    def add(self, sequence: Sequence) -> None:
        """Let it wait; `Budget.admits` must hold for it."""
        self.waiting.append(sequence)

    def schedule(self) -> Batch | None:
        """The next batch: a prefill as soon as enough slots are free, a decode step otherwise."""
        if self._should_refill and (admitted := self._admit()):
            self.running += admitted
            return Batch("prefill", admitted)
        # After `shrink` more may be running than may run at once: the others go on when the first are done.
        return Batch("decode", self.running[: self.budget.max_rows]) if self.running else None

    def remove_finished(self) -> None:
        """Give back slots and pages of the sequences that are done."""
        for sequence in self.running:
            if sequence.is_finished:
                self._release(sequence)
        self.running = [sequence for sequence in self.running if not sequence.is_finished]

    def shrink(self, batch: Batch) -> None:
        """Half as much at once from now on: the device ran out of memory on this batch."""
        if batch.phase == "prefill":
            self.budget = replace(self.budget, max_prefill_tokens=max(1, self.budget.max_prefill_tokens // 2))
        else:
            self.budget = replace(self.budget, max_rows=max(1, len(batch.sequences) // 2))

    @property
    def _should_refill(self) -> bool:
        """One prefill for several finished rows: an eighth of the slots, or all that wait."""
        free = self.budget.max_rows - len(self.running)
        return bool(self.waiting) and free >= min(max(1, self.budget.max_rows // 8), len(self.waiting))

    def _candidates(self) -> list[Sequence]:
        """Who may come in, in order: the oldest, and whoever is nearest to it in length."""
        leader = self.waiting[0]
        return sorted(self.waiting, key=lambda s: abs(s.length - leader.length))

    def _admit(self) -> list[Sequence]:
        admitted: list[Sequence] = []
        num_tokens = 0
        for sequence in self._candidates():
            num_tokens += sequence.length
            if not self._has_room(len(admitted), num_tokens) or not self._reserve(sequence):
                break
            admitted.append(sequence)
        taken = set(map(id, admitted))
        self.waiting = [sequence for sequence in self.waiting if id(sequence) not in taken]
        return sorted(admitted, key=lambda s: s.length)

    def _has_room(self, num_admitted: int, num_tokens: int) -> bool:
        """A sequence longer than the token budget runs alone."""
        has_slot = len(self.running) + num_admitted < self.budget.max_rows
        return has_slot and (num_tokens <= self.budget.max_prefill_tokens or num_admitted == 0)

    def _reserve(self, sequence: Sequence) -> bool:
        needs = self.budget.pages_for(sequence)
        if any(need > pool.num_free for need, pool in zip(needs, self._pools, strict=True)):
            return False
        sequence.pages = tuple(pool.take(need) for need, pool in zip(needs, self._pools, strict=True))
        return True

    def _release(self, sequence: Sequence) -> None:
        for pool, pages in zip(self._pools, sequence.pages, strict=True):
            pool.give_back(pages)
        sequence.pages = ()
