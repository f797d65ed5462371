"""OpenMP teams: an engine whose thread was not the only one to have one decoded at half its speed."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from star_batch.engine.threads import on_passing_thread

_PROGRAM = """
import os
import sys
import numpy as np
import torch
from star_batch import Engine, Pruning, Record

def num_threads():
    return len(os.listdir("/proc/self/task"))

with Engine.from_pretrained(sys.argv[1], pruning=Pruning(method="star", keep=0.25)) as engine:
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    engine.answer([Record(str(number), image, "w1") for number in range(64)], max_new_tokens=4)
    before = num_threads()
    torch.ones(512, 512) @ torch.ones(512, 512)
    print(num_threads() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them")
def test_the_callers_thread_has_no_team_of_its_own(tiny: str) -> None:
    """Loading weights where the caller stands left a team of two there, which made three threads for two processors."""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", _PROGRAM, tiny]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1"], "the first large product of the caller should have made its team"


def test_what_a_passing_thread_does_comes_back() -> None:
    assert on_passing_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        on_passing_thread(lambda: 1 / 0)
