"""Told to end at any moment of its start, the program says so and ends with 130; nothing of it stays."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from star_batch import interruption
from star_batch.demo.dataset import write_parquet

MOMENTS = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0, 7.0, 10.0, 14.0, 20.0)
"""Seconds after the program has begun to listen."""
BUSY = [sys.executable, "-c", "while True: pass"]


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "star_batch", "run", "--input", str(folder / "in"), "--output", "out", *more]
    command += ["--model", "demo", "--set", "input.image_column=image", "--prompt-column", "question"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until_it_listens(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> None:
    """Before that, it is Python that starts, and nothing of ours."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        if caught >> (number - 1) & 1:
            return
        time.sleep(0.005)
    raise AssertionError("it never listened")


@contextmanager
def busy_machine(is_busy: bool) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(2 if is_busy else 0):
            loop = stack.enter_context(subprocess.Popen(BUSY))
            stack.callback(loop.kill)
        yield


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_busy", [False, True])
def test_at_any_moment_of_a_start(tmp_path: Path, number: signal.Signals, is_busy: bool) -> None:
    write_parquet(tmp_path / "in", 3000, seed=1, num_bad=0)
    with busy_machine(is_busy):
        for moment in MOMENTS:
            process = start(tmp_path)
            wait_until_it_listens(process)
            time.sleep(moment)
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(number)
            printed, complained = process.communicate(timeout=120)
            assert process.returncode == 130, f"{moment}: {complained}"
            assert complained.splitlines()[-1].startswith("star-batch: interrupted; "), f"{moment}: {complained}"
            assert "Traceback" not in complained + printed
            assert not psutil.wait_procs(children, timeout=20)[1], f"{moment}: processes stay"


def test_in_the_first_moment_it_is_one_line_of_json_where_that_is_asked_for(tmp_path: Path) -> None:
    process = start(tmp_path, "--log-format", "json")
    wait_until_it_listens(process)
    process.send_signal(signal.SIGTERM)
    [line] = process.communicate(timeout=60)[1].splitlines()
    record = json.loads(line)
    assert (process.returncode, record["exit_code"], record["message"]) == (130, 130, interruption.SENTENCE)


def test_what_nohup_ignores_stays_ignored() -> None:
    script = "import signal; from star_batch import interruption; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    script += "interruption.listen(); assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


CLEANING_UP = """
import time
from star_batch import interruption
interruption.listen()
with interruption.at_work():
    try:
        print("at work", flush=True)
        time.sleep(60)
    finally:
        print("cleaning up", flush=True)
        time.sleep(60)
"""


def test_a_second_wish_ends_the_cleaning_up() -> None:
    with subprocess.Popen([sys.executable, "-c", CLEANING_UP], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        for said in ("at work\n", "cleaning up\n"):
            assert process.stdout.readline() == said
            time.sleep(0.7)
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.communicate()[1] == f"star-batch: {interruption.SENTENCE}\n"


SWALLOWED = """
import os, signal
from star_batch import interruption
interruption.listen()
with interruption.at_work():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        pass
    interruption.look()
"""


def test_what_others_swallow_is_found_after_the_phase() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True, timeout=60, check=False)
    assert "KeyboardInterrupt" in done.stderr


def test_a_library_keeps_its_users_handlers_whatever_ray_puts_there() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    mine = signal.getsignal(signal.SIGTERM)
    try:
        with interruption.at_work(), interruption.held():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ray does
        assert signal.getsignal(signal.SIGTERM) is mine
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_held_a_wish_waits_for_the_end_of_the_block() -> None:
    done: list[str] = []

    def start_something() -> None:
        with interruption.held():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("the block")
        done.append("more")

    with pytest.raises(KeyboardInterrupt):
        start_something()
    assert done == ["the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_a_thread_nothing_is_touched() -> None:
    before = signal.getsignal(signal.SIGTERM)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            with interruption.at_work(), interruption.held():
                interruption.look()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (failed, signal.getsignal(signal.SIGTERM)) == ([], before)
