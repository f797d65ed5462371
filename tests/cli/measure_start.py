"""How long `status`, `verify` and `report` take on a small local output, as multiples of `python -c pass`.

python -m tests.cli.measure_start
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.cli.finished import finish, make_half_done

ROUNDS = 7


def seconds(*arguments: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        finish(make_half_done(Path(folder)))
        commands = {
            "pass": ("-c", "pass"),
            **{name: ("-m", "star_batch", name, f"{folder}/out") for name in ("status", "verify", "report")},
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):  # in turns, so that whatever else is at work here meets all of them
            for name, arguments in commands.items():
                times[name].append(seconds(*arguments))
    base = median(times["pass"])
    for name, each in times.items():
        print(f"{name:8} {1e3 * median(each):7.0f} ms  {median(each) / base:5.1f} times python -c pass")


if __name__ == "__main__":
    main()
