"""A job that is killed thirty times at random, on a real Ray: `python -m tests.pipeline.soak [seed] [kills] [rows]`.

Prints how many rows were lost, doubled, and answered more than once. Drivers are killed with all their
processes, or one of their workers alone.
"""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from star_batch.commit.snapshots import read_snapshot
from star_batch.inputs.comparison import compare
from star_batch.storage.location import Location
from tests.pipeline import fakes
from tests.pipeline.samples import job, rows, write

LOG = "STAR_BATCH_TEST_LOG"
UNIT, WINDOWS, PER_WINDOW = 64, 2, 16


def config(folder: Path) -> Any:
    cut = {"windows": WINDOWS, "rows_per_window": PER_WINDOW}
    return job(
        folder / "in.parquet", folder / "out", input={"id_column": "id"}, output={"rows_per_file": UNIT}, cluster=cut
    )


def load_noting_engine(config: Any) -> Any:
    """The fake engine; every row that it answers is noted down, whatever becomes of it."""

    class Noting(fakes.FakeEngine):
        def _answer(self, windows: Any) -> None:
            ids = "".join(f"{record.id}\n" for records, _ in windows for record in records)
            with open(os.environ[LOG], "ab", buffering=0) as log:
                log.write(ids.encode())
            super()._answer(windows)

    return Noting(tick_seconds=0.3)


def be_driver(folder: Path) -> None:
    from star_batch.pipeline.job import run
    from tests.pipeline import soak

    run(config(folder), backend=dataclasses.replace(fakes.FAKE, engine=soak.load_noting_engine))


def start(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "errors").open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.pipeline.soak", "driver", str(folder)],
            stdout=errors,
            stderr=errors,
            env=os.environ | {LOG: str(folder / "log"), "PYTHONPATH": str(Path(__file__).parents[2])},
            start_new_session=True,
        )


def workers(session: int) -> list[int]:
    """Ray's worker processes below a driver."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            name = (place / "cmdline").read_bytes()
            if name.startswith(b"ray::") and os.getsid(int(place.name)) == session:
                found.append(int(place.name))
        except (OSError, ValueError):
            continue
    return found


def kill_somebody(process: "subprocess.Popen[bytes]", dice: random.Random) -> str:
    alive = workers(process.pid)
    if alive and dice.random() < 0.5:
        os.kill(dice.choice(alive), signal.SIGKILL)
        return "worker"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return "driver"


def lived_until_killed(folder: Path, process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Waits until the job has made headway and some seconds more; False if it has finished before."""
    before = answered(folder).total()
    while process.poll() is None and answered(folder).total() == before:
        time.sleep(0.1)
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return process.poll() is None


def answered(folder: Path) -> Counter[str]:
    log = folder / "log"
    return Counter(log.read_text().split()) if log.exists() else Counter()


def soak(folder: Path, seed: int, num_kills: int, num_rows: int) -> bool:
    dice, kills = random.Random(seed), Counter[str]()
    source = write(folder / "in.parquet", rows(num_rows))
    started = time.monotonic()
    process = start(folder)
    while kills.total() < num_kills and process.poll() != 0:
        if lived_until_killed(folder, process, dice.uniform(0.0, 2.0)):
            kills[kill_somebody(process, dice)] += 1
        if process.poll():
            # Killed, or a cluster that gave up by itself, as on a machine with too much to do.
            kills["failed by itself"] += process.returncode > 0
            process = start(folder)
    code = process.wait()
    if code:
        print((folder / "errors").read_text()[-2000:])
        return False
    output = Location.of(str(folder / "out"))
    verdict = compare(output, config(folder).input)
    found = Counter(pq.read_table(folder / "out" / "answers")["id"].to_pylist())
    wanted = set(pq.read_table(source, columns=["id"])["id"].to_pylist())
    print(
        f"exit code {code}; {dict(kills)} killed in {time.monotonic() - started:.0f} s; "
        f"{read_snapshot(output).number} epochs; "
        f"lost {len(wanted - found.keys())}, doubled {sum(count > 1 for count in found.values())}, "
        f"answered {answered(folder).total()} times for {num_rows} rows "
        f"({answered(folder).total() - num_rows} twice, {(answered(folder).total() - num_rows) / kills.total():.0f} "
        f"per kill; in flight at most {UNIT + (WINDOWS + 1) * PER_WINDOW}); findings {verdict.findings}"
    )
    return code == 0 and not verdict.findings and found == Counter(wanted)


def main() -> None:
    if sys.argv[1:2] == ["driver"]:
        be_driver(Path(sys.argv[2]))
        return
    seed, kills, num_rows = [int(text) for text in [*sys.argv[1:], *["1", "30", "5000"][len(sys.argv) - 1 :]]]
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(not soak(Path(folder), seed, kills, num_rows))


if __name__ == "__main__":
    main()
