"""Planted crashes: a process kills itself where a test says so. Does nothing unless `STAR_BATCH_CRASH` is set.

`STAR_BATCH_CRASH=after part:3:/folder` is SIGKILL for the process that passes that point third, counted over
all processes that are given the folder, so that what is tried again afterwards does not die for ever.
"""

import os
import signal
from typing import Literal, TypeAlias, get_args

Point: TypeAlias = Literal[
    "before part",
    "after part",
    "after marker",
    "before epoch",
    "after epoch",
    "after trimming",
    "after summary",
    "while deleting",
    "after metrics",
    "after success",
    "while taking the lease",
    "after taking the lease",
    "while renewing the lease",
]
POINTS: tuple[Point, ...] = get_args(Point)

VARIABLE = "STAR_BATCH_CRASH"


def crash_at(point: Point) -> None:
    """Die here if that was asked for."""
    name, number, folder = [*os.environ.get(VARIABLE, "").split(":", 2), "", ""][:3]
    if name != point:
        return
    with open(os.path.join(folder, point), "ab", buffering=0) as passages:
        # Appending is atomic: every passage gets a number of its own.
        passages.write(b".")
        if passages.tell() == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
