"""An engine that sleeps takes as long as it should, and notes when."""

import time
from pathlib import Path

from star_batch.bench.sleeping import SleepingEngine
from star_batch.records import Record


def test_a_sleeping_engine_takes_as_long_as_it_should(tmp_path: Path) -> None:
    engine = SleepingEngine(rate=200.0, file=tmp_path / "turns")
    start = time.monotonic()
    futures = [engine.submit([Record(f"{w}-{n}", None, None) for n in range(4)]) for w in range(3)]
    assert [a.id for f in futures for a in f.result(timeout=10)] == [f"{w}-{n}" for w in range(3) for n in range(4)]
    assert time.monotonic() - start >= 12 / 200
    assert engine.stats().rows_answered == 12
    assert len((tmp_path / "turns").read_text().splitlines()) == 3
