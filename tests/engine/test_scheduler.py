"""Scheduling is integers in, lists out: budgets hold, pages come back, nobody starves."""

import random
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from star_batch.engine.pages import PagePool
from star_batch.engine.scheduler import Batch, Budget, Scheduler
from star_batch.engine.sequence import SamplingParameters, Sequence
from star_batch.models import Prompt


def sequence(length: int, new_tokens: int = 4, late: int = 1) -> Sequence:
    """`length` tokens early: one of text, the rest visual."""
    return Sequence(
        id="",
        prompt=Prompt(((1,), ())),
        num_visual=length,
        counts=(length - 1, min(late, length - 1)),
        sampling=SamplingParameters(max_new_tokens=new_tokens),
    )


def budget(rows: int = 8, tokens: int = 100, pages: tuple[int, int] = (100, 100)) -> Budget:
    return Budget(max_rows=rows, max_prefill_tokens=tokens, page_size=4, num_pages=pages)


def run(scheduler: Scheduler, arrivals: list[Sequence], seed: int = 0) -> Iterator[Batch]:
    """Steps until everything is done; a sequence is done after `max_new_tokens` batches."""
    draw = random.Random(seed)
    while arrivals or scheduler.waiting or scheduler.running:
        for _ in range(draw.randint(0, 3)):
            if arrivals:
                scheduler.add(arrivals.pop())
        if (batch := scheduler.schedule()) is None:
            continue
        yield batch
        for member in batch.sequences:
            member.output.append(0)
            if len(member.output) == member.sampling.max_new_tokens:
                member.finish_reason = "length"
        scheduler.remove_finished()


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(2, 60), st.integers(1, 9)), max_size=40),
    rows=st.integers(1, 9),
    tokens=st.integers(1, 200),
    pages=st.tuples(st.integers(18, 60), st.integers(18, 60)),
    seed=st.integers(0, 99),
)
def test_budgets_hold_and_everything_comes_back(
    lengths: list[tuple[int, int]], rows: int, tokens: int, pages: tuple[int, int], seed: int
) -> None:
    limits = budget(rows, tokens, pages)
    scheduler = Scheduler(limits)
    arrivals = [sequence(length, new_tokens) for length, new_tokens in lengths]
    everyone = list(arrivals)
    assert all(limits.admits(member) for member in everyone)
    for batch in run(scheduler, arrivals, seed):
        assert len(scheduler.running) <= rows
        if batch.phase == "prefill":
            assert sum(s.length for s in batch.sequences) <= tokens or len(batch.sequences) == 1
        for group in range(2):
            held = [page for member in scheduler.running for page in member.pages[group]]
            assert len(held) == len(set(held))
            assert len(held) + scheduler.num_free_pages[group] == pages[group]
    assert all(member.is_finished for member in everyone)
    assert scheduler.num_free_pages == pages


def test_rows_beyond_what_fits_at_once_wait_until_others_are_done() -> None:
    """Every step ran out of memory again until enough rows had finished: only new ones were kept out."""
    scheduler = Scheduler(budget(rows=8, tokens=1000))
    for _ in range(8):
        scheduler.add(sequence(10, new_tokens=3))
    steps = run(scheduler, [])
    next(steps)
    scheduler.shrink(next(steps))
    assert [len(batch.sequences) for batch in steps] == [4, 4]


def test_like_lengths_are_prefilled_together() -> None:
    scheduler = Scheduler(budget(rows=4, tokens=1000))
    for length in (10, 50, 11, 52, 12, 51, 13, 53):
        scheduler.add(sequence(length, new_tokens=1))
    batches = [[s.length for s in batch.sequences] for batch in run(scheduler, [])]
    assert batches == [[10, 11, 12, 13], [50, 51, 52, 53]]


def test_the_oldest_leads_however_many_others_are_alike() -> None:
    """Picking the fullest batch of like lengths would leave an odd one waiting as long as others arrive."""
    scheduler = Scheduler(budget(rows=1))
    for length in (50, 10, 10, 10):
        scheduler.add(sequence(length))
    batch = scheduler.schedule()
    assert batch is not None
    assert batch.sequences[0].length == 50


def test_a_row_longer_than_the_token_budget_runs_alone() -> None:
    scheduler = Scheduler(budget(tokens=20))
    for length in (50, 51):
        scheduler.add(sequence(length))
    batch = scheduler.schedule()
    assert batch is not None
    assert [s.length for s in batch.sequences] == [50]


def test_one_prefill_refills_several_slots() -> None:
    """With 16 slots, one freed slot does not stop decoding for a prefill of one row."""
    scheduler = Scheduler(budget(rows=16, tokens=1000))
    for _ in range(16):
        scheduler.add(sequence(5, new_tokens=9))
    scheduler.schedule()
    for _ in range(5):
        scheduler.add(sequence(5))
    scheduler.running[0].finish_reason = "stop"
    scheduler.remove_finished()
    assert scheduler.schedule().phase == "decode"  # type: ignore[union-attr]
    scheduler.running[0].finish_reason = "stop"
    scheduler.remove_finished()
    batch = scheduler.schedule()
    assert batch is not None
    assert (batch.phase, len(batch.sequences)) == ("prefill", 2)


def test_worst_case_of_both_groups_is_reserved() -> None:
    """One text and 40 visual tokens, 9 of them late, 5 new tokens of which 4 are cached: 45 and 14 tokens."""
    assert budget().pages_for(sequence(41, new_tokens=5, late=9)) == (12, 4)


@settings(max_examples=100, deadline=None)
@given(num_pages=st.integers(1, 40), options=st.lists(st.integers(1, 12), max_size=30), seed=st.integers(0, 99))
def test_pages_are_handed_out_once_and_the_lowest_first(num_pages: int, options: list[int], seed: int) -> None:
    pool, draw = PagePool(num_pages), random.Random(seed)
    held: list[list[int]] = []
    for wish in options:
        if wish <= pool.num_free:
            free = set(range(num_pages)).difference(*held)
            pages = pool.take(wish)
            assert pages == sorted(free)[:wish]
            held.append(pages)
        elif held:
            pool.give_back(held.pop(draw.randrange(len(held))))
        assert pool.num_free == num_pages - sum(map(len, held))
    for pages in held:
        pool.give_back(pages)
    assert pool.take(num_pages) == list(range(num_pages))
