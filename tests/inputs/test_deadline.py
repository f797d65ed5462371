"""Work that hangs costs itself and nothing else."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from star_batch.inputs import deadline
from star_batch.inputs.deadline import Late, each_within


def test_results_come_in_the_order_of_the_items() -> None:
    def work(item: int, again: Callable[[], None]) -> int:
        time.sleep(0.001 * (item % 3))
        return item * 2

    assert each_within(work, range(100), 10.0) == [item * 2 for item in range(100)]
    assert each_within(work, [], 10.0) == []


def test_what_hangs_is_late_and_the_others_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()

    def work(item: int, again: Callable[[], None]) -> int:
        if item < 40:
            end.wait()
        return item

    before = deadline._stuck.number
    found = each_within(work, range(100), 0.2)
    assert found[40:] == list(range(40, 100))
    assert set(found[:40]) == {Late("not there within 0.2 seconds")}
    assert deadline._stuck.number == before + 40
    end.set()
    for _ in range(100):
        if deadline._stuck.number == before:
            break
        time.sleep(0.05)
    assert deadline._stuck.number == before, "threads that come back are counted out"


def test_another_try_has_its_own_time() -> None:
    def work(item: int, again: Callable[[], None]) -> str:
        for _ in range(5):
            again()
            time.sleep(0.15)
        return "there"

    assert each_within(work, [1], 0.5) == ["there"]


def test_where_too_many_hang_no_more_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "_MOST_STUCK", deadline._stuck.number + 3)
    end = threading.Event()

    def work(item: int, again: Callable[[], None]) -> None:
        end.wait()

    found = each_within(work, range(50), 0.1)
    end.set()
    said = [each.why for each in found if isinstance(each, Late)]
    assert len(said) == 50
    # A busy machine may begin a few more before the others count as stuck.
    assert 25 < sum(why.startswith("not tried") for why in said) <= 50 - 16


def test_what_the_work_raises_is_raised() -> None:
    def work(item: int, again: Callable[[], None]) -> int:
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        each_within(work, [1, 0, 1], 10.0)


HANGS = """
import threading
from star_batch.inputs.deadline import each_within
print(each_within(lambda item, again: threading.Event().wait(), [1, 2], 0.1))
"""


def test_the_end_of_a_process_does_not_wait_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("not there within 0.1 seconds") == 2
