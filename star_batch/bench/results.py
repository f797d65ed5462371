"""What was measured, as rows: to JSON, to CSV, and nothing that did not run. Knows no model and no clock."""

import csv
import datetime
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from star_batch.errors import OutputError
from star_batch.storage.results import make_ready

STAGES = ("vision", "select", "prefill", "decode", "other")
"""Keys of `stage_seconds`; the last is what none of them took."""

NAMES = ("bench.json", "bench.csv", "bench.png")

_PACKAGES = ("star-batch", "torch", "transformers", "tokenizers", "triton")


def label_of(method: str, keep: int | float | None) -> str:
    """How our engine is called under a pruning."""
    return method if keep is None else f"{method} {keep}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contender at one answer length.

    `method` is `generate` (with its `batch`), `none` or a pruning method (with its `keep`).
    `images_per_second` is the median over rounds, between `slowest` and `fastest`. `over_generate` is its ratio to
    the fastest `generate` at the same length, `over_none` to our engine without pruning; None where that did not run.
    `layer_tokens`: visual tokens that a layer sees on average. `shared_tokens` of a row were run once for several rows.
    `kv_bytes_per_row` at the end of an answer.
    `rows_per_step` decoded together on average; `most_rows` would fit into the memory for keys and values.
    `padding`, `occupancy`, `stage_seconds`: of the median pass, see `Pass`; what is left of its time is `other`.
    `limit`: images/s that the device's measured rates allow, `roofline` the share of it that was reached.
    `peak_bytes` of memory: on CUDA what torch held at most, on CPU the process. `accuracy` over `num_references`
    answers that ended by themselves.
    """

    method: str
    batch: int | None
    keep: int | float | None
    answer_tokens: int
    requests: int
    rounds: int
    images_per_second: float
    slowest: float
    fastest: float
    layer_tokens: float
    kv_bytes_per_row: float
    rows_per_step: float
    most_rows: int | None
    padding: float
    occupancy: float
    stage_seconds: dict[str, float]
    limit: float
    roofline: float
    peak_bytes: int | None
    over_generate: float | None = None
    over_none: float | None = None
    accuracy: float | None = None
    num_references: int = 0
    shared_tokens: float = 0.0

    @property
    def label(self) -> str:
        if self.batch is not None:
            return f"{self.method} {self.batch}"
        return label_of(self.method, self.keep)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One job of the pipeline with sleeping engines.

    `rows_per_second` of each actor while all of them were at work, `overall` from the first row to the last,
    when some have run out. `idle`: share of the time in which all were at work that an engine waited for rows.
    `preprocess_seconds` per row by the workers' clocks, waiting for a core included. `cpu_share` of the machine's
    cores that were busy, with whatever else runs there; `driver_cores` that the driver took. `driver_bytes` of
    memory at most, and how much that grew from the second to the last quarter of the job.
    """

    actors: int
    rows: int
    rows_per_second: float
    overall: float
    idle: float
    wall_seconds: float
    preprocess_seconds: float
    cpu_share: float
    driver_cores: float
    driver_bytes: int
    driver_growth_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A comparison: `about` says of what, with what and when; `skipped` who did not run, and why."""

    about: dict[str, Any]
    rows: tuple[Row, ...]
    skipped: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {"about": self.about, "rows": [asdict(row) for row in self.rows], "skipped": self.skipped}


def write_results(folder: Path, results: Results) -> list[Path]:
    """`bench.json` and `bench.csv`.

    Raises:
        OutputError: the folder cannot be written.
    """
    make_ready(folder, NAMES)
    written = [folder / name for name in NAMES[:2]]
    try:
        written[0].write_text(json.dumps(results.as_dict(), indent=2) + "\n", encoding="utf-8")
        with written[1].open("w", newline="", encoding="utf-8") as file:
            _write_csv(file, results.rows)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from None
    return written


def _write_csv(file: Any, rows: Sequence[Row]) -> None:
    """Stages become columns of their own."""
    names = [f.name for f in fields(Row) if f.name != "stage_seconds"]
    writer = csv.writer(file)
    writer.writerow([*names, *(f"{stage}_seconds" for stage in STAGES)])
    for row in rows:
        writer.writerow([*(getattr(row, name) for name in names), *(row.stage_seconds.get(s) for s in STAGES)])


def surroundings(mode: str = "bench") -> dict[str, Any]:
    """When, with what, on what; no name of a machine, a person or a folder."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["star-batch", mode, *map(_without_folder, _arguments(mode))]),
        "versions": {"python": platform.python_version()} | _versions(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "system": platform.system(),
    }


def _arguments(mode: str) -> list[str]:
    arguments = sys.argv[1:]
    return arguments[1:] if arguments[:1] == [mode] else arguments


def _without_folder(argument: str) -> str:
    """A local path says where on a machine something lies; its last name is enough."""
    option, equals, value = argument.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if value.startswith(("/", "~", ".")) else argument


def _versions() -> dict[str, str]:
    installed = {name: _version(name) for name in _PACKAGES}
    return {name: version for name, version in installed.items() if version is not None}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """The processor's model, as the kernel says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
