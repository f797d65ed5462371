"""The real pipeline with engines that sleep; what it says of their pace, and of what is in the way."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from star_batch.bench import scale
from star_batch.bench.results import Point
from star_batch.bench.scale import ScaleOptions, measure_scale, pace, verdict, write_scale
from star_batch.bench.sleeping import Turn
from star_batch.errors import ConfigError, StarBatchError
from star_batch.images import decode

POINT = Point(
    actors=1,
    rows=1000,
    rows_per_second=50.0,
    overall=48.0,
    idle=0.0,
    wall_seconds=20.0,
    preprocess_seconds=0.006,
    cpu_share=0.3,
    driver_cores=0.1,
    driver_bytes=500 << 20,
    driver_growth_bytes=0,
)


def test_the_pace_is_taken_while_all_are_at_work() -> None:
    busy = [Turn(0.0, 1.0, 10), Turn(1.0, 2.0, 10), Turn(2.0, 3.0, 10)]
    late = [Turn(1.0, 1.5, 5), Turn(2.0, 2.5, 5)]  # waits half a second of one and a half
    rate, idle = pace([busy, late])
    assert rate == pytest.approx((15 + 10) / 3)
    assert idle == pytest.approx(0.5 / 3)
    with pytest.raises(StarBatchError, match="before others began"):
        pace([[Turn(0.0, 1.0, 10)], [Turn(2.0, 3.0, 10)]])


def test_the_verdict_names_what_is_in_the_way() -> None:
    assert verdict([POINT, replace(POINT, actors=16, rows_per_second=48.0)]).endswith("within 5% of 1 up to 16 actors")
    slow = replace(POINT, actors=8, rows_per_second=30.0, idle=0.4)
    assert "from 8 actors on each is 40% slower" in verdict([POINT, slow])
    assert "engines wait for rows 40% of the time" in verdict([POINT, slow])
    assert "6.0 ms per row, 2.4 cores at full pace" in verdict([POINT, replace(slow, cpu_share=0.97)])
    assert "the driver is the limit" in verdict([POINT, replace(slow, driver_cores=0.99)])


@pytest.mark.parametrize(
    "change", [{"actors": ()}, {"actors": (0,)}, {"rate": 0.0}, {"seconds": 1.0}, {"rows_per_window": 0}]
)
def test_what_cannot_be_shared_out_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(ScaleOptions(), **change)  # type: ignore[arg-type]


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.usefixtures("local_ray")
def test_two_engines_both_get_rows(tmp_path: Path) -> None:
    options = ScaleOptions(actors=(2,), rate=64.0, seconds=3.0, rows_per_file=32)
    points = measure_scale(options, tmp_path, lambda _: None)
    assert [(p.actors, p.rows) for p in points] == [(2, 384)]
    assert points[0].rows_per_second > 0
    assert points[0].preprocess_seconds > 0
    assert "verdict" in json.loads(write_scale(tmp_path, points).read_text())


def test_windows_are_as_large_as_was_said(tmp_path: Path) -> None:
    assert scale._job(ScaleOptions(rows_per_window=8), 2, tmp_path).cluster.rows_per_window == 8


def test_every_row_has_an_image_of_its_own_to_decode(tmp_path: Path) -> None:
    """Rows that share an image have it decoded once: eight pictures in all rows made decoding look free."""
    scale._write_input(tmp_path / "in.parquet", 100)
    images = pq.read_table(tmp_path / "in.parquet")["image"].to_pylist()
    assert len(set(images)) == 100
    assert {decode(image).size for image in images} == {(640, 480)}
