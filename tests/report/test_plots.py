"""Plots follow the page's theme, add nothing up twice, and say nothing where there is nothing to say."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from star_batch.monitor.intervals import THROUGHPUT_SCHEMA
from star_batch.report import plots
from tests.report.samples import pace

DRAWN = {
    "throughput": plots.throughput(pace()),
    "occupancy": plots.occupancy(pace()),
    "stages": plots.stages({"fetch": 0.0, "vision": 7.2, "decode_image": 1.0}),
    "visual": plots.visual_tokens({"offered": 576.0, "after the early stage": 192.0}),
    "texts": plots.text_lengths("answer", {3: 10, 700: 1}),
}


@pytest.mark.parametrize("name", DRAWN)
def test_colours_and_letters_are_the_pages(name: str) -> None:
    svg = DRAWN[name]
    assert svg is not None
    assert svg.startswith('<svg viewBox="0 0 ')
    assert "var(--ink)" in svg or "var(--faint)" in svg
    assert not any(mark in svg for mark in ("#0102", "http:", "DejaVu", "<!--", ' id="axes'))


def test_what_is_drawn_of_all_actors_is_what_they_did() -> None:
    table = pace(num_intervals=200, num_actors=3)
    times, done = plots._over_time(table, ("rows_answered", "decode_slots"))
    assert len(times) <= plots._MAX_POINTS + 1
    assert times[-1] - times[0] == pytest.approx(400.0)
    assert done["rows_answered"].sum() == pytest.approx(sum(table["rows_answered"].to_pylist()))
    assert np.allclose(done["rows_answered"] / np.diff(times), 3 * 80 / 2)


def test_an_actor_that_came_late_counts_from_then_on() -> None:
    table = pace(num_actors=1)
    late = table.set_column(2, "start", pc.add(table["start"], 100.0))
    late = late.set_column(3, "end", pc.add(table["end"], 100.0))
    late = late.set_column(1, "actor", pa.array(["late"] * table.num_rows))
    times, done = plots._over_time(pa.concat_tables([table, late]), ("rows_answered",))
    assert done["rows_answered"].sum() == pytest.approx(2 * 5 * 80)
    assert done["rows_answered"][np.searchsorted(times, 55.0)] == 0.0


def test_nothing_is_drawn_of_nothing() -> None:
    empty = THROUGHPUT_SCHEMA.empty_table()
    assert plots.throughput(empty) is plots.occupancy(empty) is plots.stages({"write": 0.0}) is None
    assert plots.text_lengths("prompt", {}) is None


def test_shares_are_never_above_one_and_unknown_over_nothing() -> None:
    shares = plots._shares(np.array([1.0, 3.0, 1.0]), np.array([2.0, 2.0, 0.0]))
    assert shares[:2].tolist() == [0.5, 1.0]
    assert np.isnan(shares[2])
