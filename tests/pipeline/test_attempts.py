"""The hunt for deadly rows, played through without a process: who is blamed, and after how many deaths."""

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from star_batch.pipeline.attempts import Attempts, Process, Rows, cut, most_deaths

ATTEMPTS = 2


class Died(Exception):
    """What a process does."""


class Actor:
    """One actor of a job: windows run together until one is suspect, which then has the process to itself.

    It goes the way of Ray: when the process dies, all windows that were not handed on come again. `accidents`
    are the numbers of attempts at which it is killed for nothing.
    """

    def __init__(self, name: str, attempts: Attempts, poison: set[str], accidents: set[int], together: int) -> None:
        self.name, self.attempts, self.poison, self.accidents, self.together = (
            name,
            attempts,
            poison,
            accidents,
            together,
        )
        self.num_attempts = 0
        self.deaths = 0
        self.done: dict[str, bool] = {}

    def work(self, windows: Sequence[Rows]) -> None:
        """Every window, whatever dies; `done` says of every row whether it was answered."""
        for first in range(0, len(windows), self.together):
            block = windows[first : first + self.together]
            while True:
                try:
                    self.done |= self.attempt(block, Process(self.name, str(self.deaths)))
                    break
                except Died:
                    self.deaths += 1

    def attempt(self, block: Sequence[Rows], process: Process) -> dict[str, bool]:
        done: dict[str, bool] = {}
        running: list[Rows] = []
        for ids in block:
            dispatch = self.attempts.open(process, ids)
            if dispatch.is_safe:
                running.append(ids)
                continue
            self.finish(process, running)
            running = []
            for piece in dispatch.pieces:
                self.attempts.begin(process, piece)
                self.finish(process, [piece])
            done |= dict.fromkeys(dispatch.quarantined, False)
        self.finish(process, running)
        return {id: True for ids in block for id in ids} | done

    def finish(self, process: Process, running: Sequence[Rows]) -> None:
        self.num_attempts += 1
        if self.num_attempts in self.accidents or any(self.poison.intersection(ids) for ids in running):
            raise Died
        for ids in running:
            self.attempts.finish(process, ids)


def windows_of(sizes: Sequence[int], prefix: str = "") -> list[Rows]:
    return [tuple(f"{prefix}{w}-{n}" for n in range(size)) for w, size in enumerate(sizes)]


@st.composite
def jobs(draw: st.DrawFn) -> tuple[list[Rows], set[str], int]:
    windows = windows_of(draw(st.lists(st.integers(1, 70), min_size=1, max_size=6)))
    poison = draw(st.sets(st.sampled_from([id for ids in windows for id in ids]), max_size=5))
    return windows, poison, draw(st.integers(1, 4))


@settings(deadline=None)
@given(jobs(), st.integers(1, 4))
def test_the_deadly_rows_and_only_they_are_blamed_after_few_deaths(
    drawn: tuple[list[Rows], set[str], int], max_attempts: int
) -> None:
    windows, poison, together = drawn
    attempts = Attempts(max_attempts)
    actor = Actor("a", attempts, poison, set(), together)
    actor.work(windows)
    assert {id for id, is_answered in actor.done.items() if not is_answered} == poison
    assert actor.done.keys() == {id for ids in windows for id in ids}
    assert actor.deaths <= len(poison) * most_deaths(max(map(len, windows)), max_attempts)
    assert attempts.deaths == actor.deaths


@settings(deadline=None)
@given(jobs(), st.integers(1, 60))
def test_an_accident_costs_a_retry_and_nobody_is_blamed(drawn: tuple[list[Rows], set[str], int], accident: int) -> None:
    windows, poison, together = drawn
    actor = Actor("a", Attempts(ATTEMPTS), poison, {accident}, together)
    actor.work(windows)
    assert {id for id, is_answered in actor.done.items() if not is_answered} == poison
    assert actor.deaths <= len(poison) * most_deaths(max(map(len, windows)), ATTEMPTS) + 1


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_windows_that_come_back_cut_otherwise_end_all_the_same(seed: int) -> None:
    """A block that was lost is made again; nothing promises that it holds the same rows."""
    dice = random.Random(seed)
    ids = [f"{n}" for n in range(100)]
    poison = set(dice.sample(ids, 3))
    attempts, deaths, done = Attempts(ATTEMPTS), 0, set[str]()
    while rest := [id for id in ids if id not in done]:
        actor = Actor("a", attempts, poison, set(), 4)
        process = Process("a", str(deaths))
        start = dice.randrange(len(rest))
        window = tuple(dice.sample(rest[start : start + 30], len(rest[start : start + 30])))
        try:
            answered = actor.attempt([window], process)
        except Died:
            deaths += 1
            continue
        assert poison.issuperset(id for id, is_answered in answered.items() if not is_answered)
        assert poison.isdisjoint(id for id, is_answered in answered.items() if is_answered)
        done.update(window)
    assert deaths <= 3 * most_deaths(30, ATTEMPTS)


def test_a_row_beside_other_windows_is_not_alone() -> None:
    attempts = Attempts(max_attempts=1)
    attempts.open(Process("a", "1"), ("x",))
    attempts.open(Process("a", "1"), ("y",))
    assert not attempts.open(Process("a", "2"), ("x",)).quarantined
    assert not attempts.open(Process("a", "2"), ("y",)).is_safe


def test_the_first_death_of_a_row_that_was_alone_counts() -> None:
    attempts = Attempts(max_attempts=1)
    attempts.open(Process("a", "1"), ("x",))
    attempts.leave(Process("a", "1"), "ECC")
    assert attempts.open(Process("a", "2"), ("x",)).quarantined == {"x": "crashed its worker once: ECC"}


def test_a_message_that_was_lost_with_its_process_blames_nobody() -> None:
    """The end of `x` was on its way when the next piece killed the process: it had run alone, and was done."""
    attempts = Attempts(max_attempts=1)
    attempts.begin(Process("a", "1"), ("x",))
    attempts.begin(Process("a", "1"), ("y",))
    assert attempts.open(Process("b", "1"), ("x",)).is_safe
    assert set(attempts.open(Process("a", "2"), ("x2", "y")).quarantined) == {"y"}


def test_rows_that_are_finished_may_be_done_again() -> None:
    """Ray makes a block again when the machine that held its answers is gone."""
    attempts = Attempts(ATTEMPTS)
    attempts.open(Process("a", "1"), ("x", "y"))
    attempts.finish(Process("a", "1"), ("x", "y"))
    assert attempts.open(Process("b", "1"), ("x", "y")).is_safe
    assert attempts.deaths == 0


def test_deaths_in_a_row_are_an_actors_own() -> None:
    attempts = Attempts(ATTEMPTS)
    for life in range(3):
        attempts.open(Process("a", str(life)), ("x",))
        attempts.begin(Process("a", str(life)), ("x",))
        attempts.open(Process("b", "1"), (f"y{life}",))
        attempts.finish(Process("b", "1"), (f"y{life}",))
    assert (attempts.deaths_in_a_row("a"), attempts.deaths_in_a_row("b")) == (2, 0)
    attempts.finish(Process("a", "2"), ("x",))
    assert attempts.deaths_in_a_row("a") == 0


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(1, 20)), max_size=50))
def test_pieces_hold_every_row_once_and_none_is_longer_than_its_rows_allow(drawn: list[int | None]) -> None:
    limits = {f"{n}": limit for n, limit in enumerate(drawn) if limit is not None}
    ids = [f"{n}" for n in range(len(drawn))]
    pieces = list(cut(ids, limits))
    assert [id for piece in pieces for id in piece] == ids
    assert all(len(piece) <= limits.get(id, len(ids)) for piece in pieces for id in piece)


def test_the_deaths_that_a_row_may_cost() -> None:
    assert [most_deaths(rows, 2) for rows in (1, 2, 4, 16, 64, 512)] == [3, 3, 3, 4, 5, 7]
