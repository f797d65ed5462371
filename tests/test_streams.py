"""What is shown is not the job: whatever happens to a terminal, a pipe or a log costs the showing alone."""

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from star_batch.cli.screen import Screen, show_table
from star_batch.demo.dataset import write_parquet
from star_batch.streams import Lines
from tests.pipeline.samples import rows, write

COMMAND = [sys.executable, "-m", "star_batch"]
PLAN = ["plan", "--input", "in.parquet", "--output", "out", "--model", "demo", "--set", "input.image_column=image"]
PLAN += ["--prompt-column", "question", "--gpu", "a100-80gb"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "in.parquet", rows(4))
    return tmp_path


def code(folder: Path, *arguments: str, **how: Any) -> int:
    """The exit code of the command, however little of it can be shown."""
    environment = os.environ | how.pop("env", {})
    given = {"stdin": subprocess.DEVNULL} | how
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=environment, timeout=200, check=False, **given
    ).returncode


def closed_pipe() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def closed_terminal() -> int:
    master, slave = pty.openpty()
    os.close(master)
    return slave


@pytest.mark.parametrize("place", [closed_pipe, full_disk, closed_terminal])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "--help"], 0),
        (["run", "absent.yaml"], 2),
        (["run", "--no-such"], 2),
        pytest.param(["status", "nowhere"], 5, marks=pytest.mark.faults),
        pytest.param(["verify", "nowhere"], 5, marks=pytest.mark.faults),
        pytest.param(PLAN, 0, marks=pytest.mark.faults),
    ],
)
def test_where_nothing_can_be_written_the_exit_code_is_the_commands(
    folder: Path, place: Any, arguments: list[str], expected: int
) -> None:
    nowhere = place()
    try:
        assert code(folder, *arguments, stdout=nowhere, stderr=nowhere) == expected
    finally:
        os.close(nowhere)


def test_streams_that_are_closed_are_no_file_that_is_opened_later(folder: Path) -> None:
    line = " ".join([*COMMAND, "run", "absent.yaml", "<&-", ">&-", "2>&-"])
    assert subprocess.run(["bash", "-c", line], cwd=folder, timeout=200, check=False).returncode == 2
    script = "from star_batch import streams; streams.protect(); f = open('log', 'w'); import os; os.write(2, b'x')"
    subprocess.run(["bash", "-c", f'{sys.executable} -c "{script}" <&- >&- 2>&-'], cwd=folder, timeout=200, check=True)
    assert (folder / "log").read_bytes() == b""


def test_a_terminal_that_knows_no_such_character_or_has_no_room(folder: Path) -> None:
    strange = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "COLUMNS": "1", "TERM": "dumb"}
    shown = subprocess.run(
        [*COMMAND, "run", "Größe.yaml"], cwd=folder, env=os.environ | strange, capture_output=True, check=False
    )
    assert shown.returncode == 2
    assert shown.stderr.isascii()
    assert b"Gr" in shown.stderr
    assert b"Traceback" not in shown.stderr


def test_the_one_line_that_is_read_is_whole(folder: Path) -> None:
    line = f"set -o pipefail; {' '.join([*COMMAND, 'run', '--help'])} 2>&1 | head -1"
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)


def test_where_json_is_asked_for_all_that_libraries_say_is_json(folder: Path) -> None:
    said = "warnings.warn('w'); print('x y', file=sys.stderr); logging.getLogger('other').warning('z')"
    thread = "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()"
    script = "import logging, sys, threading, warnings; from star_batch.cli.messages import set_up_logs; "
    script += f"set_up_logs('json'); {said}; {thread}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {"x y", "z", "a thread failed"} <= {line["message"] for line in lines}


def test_a_mistyped_option_is_json_where_json_was_asked_for(folder: Path) -> None:
    command = [*COMMAND, "run", "--log-format", "json", "--no-such"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    messages = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert done.returncode == 2
    assert any("--no-such" in message for message in messages)


def test_lines_become_records_when_they_are_whole() -> None:
    told: list[str] = []
    lines = Lines(io.StringIO(), told.append)
    for piece in ("one\ntw", "o\r\n\n", "three"):
        lines.write(piece)
    assert told == ["one", "two"]


def test_a_screen_that_breaks_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = io.StringIO()
    broken.close()
    screen = Screen(file=broken)
    screen.print("lost")
    monkeypatch.setattr("star_batch.cli.screen.out", screen)
    show_table(["a"], [["b"]])


JOB = ["run", "--input", "in", "--output", "out", "--model", "demo", "--set", "input.image_column=image"]
JOB += ["--prompt-column", "question"]


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.parametrize("place", [closed_pipe, full_disk, closed_terminal, None])
def test_a_job_that_nobody_sees_is_finished(tmp_path: Path, place: Any) -> None:
    write_parquet(tmp_path / "in", 24, seed=1, num_bad=0)
    job = [*COMMAND, *JOB]
    if place is None:
        line = ["bash", "-c", f"set -o pipefail; {' '.join(job)} 2>&1 | head -1 | cut -c1-5"]
        done = subprocess.run(line, cwd=tmp_path, timeout=250, check=False).returncode
    else:
        nowhere = place()
        done = code(tmp_path, *JOB, stdout=nowhere, stderr=nowhere)
        os.close(nowhere)
    assert done == 0
    assert (tmp_path / "out" / "_SUCCESS").exists()
