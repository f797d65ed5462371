"""What engines count adds up, over time and over engines."""

from collections.abc import Sequence
from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from star_batch.metrics import BATCH_ROWS, EngineStats, Histogram, Readings

stats = st.builds(EngineStats, **{f.name: st.integers(0, 2**40) for f in fields(EngineStats)})


@given(first=stats, second=stats)
def test_engine_stats_add_up(first: EngineStats, second: EngineStats) -> None:
    assert first + second == second + first
    assert first + second - second == first
    assert first + EngineStats() == first


values = st.lists(st.integers(0, 2000).map(float), max_size=30)


def histogram(observed: Sequence[float]) -> Histogram:
    made = Histogram.over(BATCH_ROWS)
    for value in observed:
        made.observe(value)
    return made


@given(first=values, second=values)
def test_histograms_add_up(first: list[float], second: list[float]) -> None:
    both = histogram(first + second)
    assert histogram(first) + histogram(second) == both
    assert both - histogram(second) == histogram(first)
    assert (sum(both.counts), both.total) == (len(first + second), sum(first + second))


def test_a_value_on_a_bound_is_not_above_it() -> None:
    made = histogram([1.0, 1.5, 2.0, 513.0])
    assert (made.counts[:2], made.counts[-1]) == ([1, 2], 1)


def test_readings_of_several_engines() -> None:
    first = Readings(rows_waiting=3, pages_in_use=(5, 2), pages=(8, 8), idle_seconds=1.0)
    first.observe("decode", rows=4, seconds=0.5)
    second = Readings(rows_running=2, pages_in_use=(1,), pages=(8,), idle_seconds=0.5)
    both = first + second
    assert (both.rows_waiting, both.rows_running, both.idle_seconds) == (3, 2, 1.5)
    assert (both.pages_in_use, both.pages) == ((6, 2), (16, 8))
    assert sum(both.batch_rows["decode"].counts) == 1
    ended = both.at_the_end()
    assert (ended.rows_waiting, ended.rows_running, ended.pages) == (0, 0, ())
    assert (ended.idle_seconds, ended.step_seconds) == (1.5, both.step_seconds)
