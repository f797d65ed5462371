"""How far one machine's pipeline goes: the real one, with engines that only sleep as long as a GPU would take.

Everything else is real: Parquet, image decoding, Ray, commits. Knows no model, and not how an engine sleeps.
"""

import io
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from star_batch.bench.memory import resident_bytes
from star_batch.bench.results import Point, surroundings
from star_batch.bench.sleeping import Turn, read_turns, sleeping_backend
from star_batch.config import JobConfig
from star_batch.errors import ConfigError, OutputError, StarBatchError
from star_batch.metrics import Progress, Summary
from star_batch.options import is_count
from star_batch.pipeline.job import run

ALLOWED_LOSS = 0.05
_PICTURES, _PICTURE_SIZE = 8, (640, 480)
_SCHEMA = pa.schema([("id", pa.string()), ("image", pa.binary())])
_ROWS_PER_GROUP = 256
_UNITS_PER_ACTOR = 3  # commit units that each engine must be able to get
_BUSY = 0.9  # of the cores: from here on, they are what everybody waits for


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleOptions:
    """`actors` to try, one job for each number; an engine answers `rate` rows/s and has work for `seconds`.

    It gets its rows in windows of `rows_per_window`.

    Raises:
        ConfigError: a value is out of range, or too little work to share it out.
    """

    actors: tuple[int, ...] = (1, 2, 4, 8, 16)
    rate: float = 50.0
    seconds: float = 60.0
    rows_per_file: int = 512
    rows_per_window: int = 64

    def __post_init__(self) -> None:
        if not self.actors or not all(map(is_count, self.actors)):
            raise ConfigError(f"actors={self.actors}: give whole numbers of 1 or more")
        if not is_count(self.rows_per_window):
            raise ConfigError(f"rows_per_window={self.rows_per_window}: give a whole number of 1 or more")
        if not (self.rate > 0 and self.seconds > 0):
            raise ConfigError(f"rate={self.rate} and seconds={self.seconds}: give numbers above 0")
        least = _UNITS_PER_ACTOR * self.rows_per_file / self.rate
        if self.seconds < least:
            raise ConfigError(f"seconds={self.seconds:g}: below {least:.0f} s some engines might get no rows at all")

    def num_rows(self, actors: int) -> int:
        return round(actors * self.rate * self.seconds)


def measure_scale(options: ScaleOptions, folder: Path, say: Callable[[str], None] = print) -> list[Point]:
    """A job for each number of actors; input and answers go below `folder`.

    Raises:
        ClusterError, OutputError: a job could not run.
        StarBatchError: too few rows to keep all engines at work.
    """
    points = []
    for actors in options.actors:
        rows = options.num_rows(actors)
        say(f"{actors} actors, {rows:,} rows")
        _write_input(folder / f"input-{actors}.parquet", rows)
        points.append(_measure(options, actors, folder))
    return points


def _measure(options: ScaleOptions, actors: int, folder: Path) -> Point:
    watch = _Watch()
    with TemporaryDirectory() as notes:
        backend = sleeping_backend(options.rate, notes)
        with watch.running():
            summary = run(_job(options, actors, folder), on_progress=watch.on_progress, backend=backend)
        turns = [read_turns(file) for file in Path(notes).iterdir()]
    return _point(summary, actors, turns, watch)


def _point(summary: Summary, actors: int, turns: Sequence[Sequence[Turn]], watch: "_Watch") -> Point:
    if len(turns) < actors:
        raise StarBatchError(f"only {len(turns)} of {actors} engines got rows: give more seconds")
    preprocess = summary.stage_seconds["fetch"] + summary.stage_seconds["decode_image"]
    span = max(t[-1].end for t in turns) - min(t[0].start for t in turns)
    rate, idle = pace(turns)
    return Point(
        actors=actors,
        rows=summary.rows,
        rows_per_second=rate,
        overall=summary.rows / span / actors,
        idle=idle,
        wall_seconds=summary.wall_seconds,
        preprocess_seconds=preprocess / summary.rows,
        cpu_share=watch.cpu_share,
        driver_cores=watch.driver_cores,
        driver_bytes=max(watch.memory, default=0),
        driver_growth_bytes=watch.growth,
    )


def pace(turns: Sequence[Sequence[Turn]]) -> tuple[float, float]:
    """Rows/s of an engine and its share of waiting, from when the last has begun until the first has run out.

    Raises:
        StarBatchError: there was no such time.
    """
    start, end = max(t[0].start for t in turns), min(t[-1].end for t in turns)
    if end <= start:
        raise StarBatchError("some engines had run out of rows before others began: give more seconds")
    rows = busy = 0.0
    for turn in chain.from_iterable(turns):
        inside = max(0.0, min(turn.end, end) - max(turn.start, start))
        rows += turn.rows * inside / (turn.end - turn.start)
        busy += inside
    whole = (end - start) * len(turns)
    return rows / whole, 1 - busy / whole


@dataclass(slots=True)
class _Watch:
    """What a job takes of this machine and of this process, from its first row to its end."""

    memory: list[int] = field(default_factory=list)
    cpu_share: float = 0.0
    driver_cores: float = 0.0
    _start: tuple[float, float, float, float] | None = None

    def on_progress(self, progress: Progress) -> None:
        if self._start is None:
            self._start = _usage()
        self.memory.append(resident_bytes())

    @contextmanager
    def running(self) -> Iterator[None]:
        yield
        if self._start is None:
            return
        before, after = self._start, _usage()
        wall, driver, busy, total = (end - start for start, end in zip(before, after, strict=True))
        self.driver_cores = driver / wall
        self.cpu_share = busy / total if total else 0.0

    @property
    def growth(self) -> int:
        quarter = len(self.memory) // 4
        if not quarter:
            return 0
        return round(median(self.memory[-quarter:]) - median(self.memory[quarter : 2 * quarter]))


def _usage() -> tuple[float, float, float, float]:
    """Seconds so far: of the clock, of this process's CPU, of the machine's CPUs busy, and of these in all."""
    mine = psutil.Process().cpu_times()
    machine = psutil.cpu_times()
    total = sum(machine)
    busy = total - machine.idle - getattr(machine, "iowait", 0.0)
    return time.monotonic(), mine.user + mine.system, busy, total


def _job(options: ScaleOptions, actors: int, folder: Path) -> JobConfig:
    return JobConfig.model_validate(
        {
            "input": {"path": str(folder / f"input-{actors}.parquet"), "id_column": "id", "prompt": "what is it?"},
            "output": {
                "path": str(folder / f"output-{actors}"),
                "overwrite": True,
                "rows_per_file": options.rows_per_file,
            },
            "model": {"name": "sleeping", "device": "cpu"},
            # A sleeping engine needs no core: those that there are go to reading and decoding.
            "cluster": {"actors": actors, "cpus_per_actor": 0.0, "rows_per_window": options.rows_per_window},
        }
    )


def _write_input(file: Path, num_rows: int) -> None:
    """Few pictures in many rows; what follows the end of each differs, so that every row is decoded all the same."""
    pictures = [_picture(seed) for seed in range(_PICTURES)]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(file, _SCHEMA) as writer:
            for first in range(0, num_rows, _ROWS_PER_GROUP):
                numbers = range(first, min(first + _ROWS_PER_GROUP, num_rows))
                images = [pictures[n % _PICTURES] + n.to_bytes(8) for n in numbers]
                writer.write_table(pa.table([[f"row-{n}" for n in numbers], images], schema=_SCHEMA))
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror}") from None


def _picture(seed: int) -> bytes:
    """A JPEG with enough in it to take a usual time to decode."""
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(_PICTURE_SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def verdict(points: Sequence[Point]) -> str:
    """Whether every actor keeps the pace of the first job's, and what is in the way where it does not."""
    base = points[0]
    slower = [p for p in points[1:] if p.rows_per_second < (1 - ALLOWED_LOSS) * base.rows_per_second]
    if not slower:
        return f"rows/s per actor stay within {ALLOWED_LOSS:.0%} of {base.actors} up to {points[-1].actors} actors"
    first = slower[0]
    loss = 1 - first.rows_per_second / base.rows_per_second
    return f"from {first.actors} actors on each is {loss:.0%} slower or more: {_limit(first, base)}"


def _limit(point: Point, base: Point) -> str:
    cores = os.cpu_count() or 1
    if point.cpu_share >= _BUSY:
        needed = base.preprocess_seconds * base.rows_per_second * point.actors
        each = f"{1e3 * base.preprocess_seconds:.1f} ms per row, {needed:.1f} cores at full pace"
        return f"the cores are the limit ({point.cpu_share:.0%} of {cores} busy); decoding images alone takes {each}"
    if point.driver_cores >= _BUSY:
        return f"the driver is the limit: it takes {point.driver_cores:.1f} cores itself"
    return f"engines wait for rows {point.idle:.0%} of the time while {point.cpu_share:.0%} of {cores} cores are busy"


def write_scale(folder: Path, points: Sequence[Point]) -> Path:
    """`scale.json`."""
    file = folder / "scale.json"
    values = {"about": surroundings(), "points": [asdict(p) for p in points], "verdict": verdict(points)}
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return file
