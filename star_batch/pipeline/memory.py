"""How much memory there is for the processes of this machine or container, and how often the kernel killed for it.

Reads Linux' control groups, version 2 and 1. Knows no Ray and no job.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Limit:
    """`size` in bytes; `of` names the file that says so, or is empty where it is all that the machine has."""

    size: int
    of: str = ""

    def __str__(self) -> str:
        whose = f"the limit of this container ({self.of})" if self.of else "all that this machine has"
        return f"{self.size / _GIB:.1f} GiB, {whose}"


def limit(root: Path = Path("/"), total: int | None = None) -> Limit:
    """What the kernel gives this process and its children together: the least of all groups around it."""
    machine = Limit(total if total is not None else psutil.virtual_memory().total)
    sizes = ((_number(group / name), name) for group, name, _ in _groups(root))
    return min((machine, *(Limit(size, name) for size, name in sizes if size)), key=lambda limit: limit.size)


def kernel_kills(root: Path = Path("/")) -> int:
    """Processes of this container that the kernel has killed for want of memory, since it was made."""
    return max((_kills(group / events) for group, _, events in _groups(root)), default=0)


def _groups(root: Path) -> Iterator[tuple[Path, str, str]]:
    """The groups around this process, with the names of the limit's file and of that of events."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, kinds, path = [*line.split(":", 2), "", ""][:3]
        if not kinds:
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.events")
        elif "memory" in kinds.split(","):
            top, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.oom_control")
        else:
            continue
        # In a container the path may be the host's, and only the top is there.
        inner = top / path.strip("/")
        for group in (inner, *inner.parents):
            yield group, *names
            if group == top:
                break


def _number(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdigit() else None


def _kills(file: Path) -> int:
    counts = (line.split() for line in _text(file).splitlines())
    return next((int(count[1]) for count in counts if count[:1] == ["oom_kill"] and count[1].isdigit()), 0)


def _text(file: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return file.read_text(encoding="ascii")
    return ""


class Witness:
    """Whether the kernel has killed for want of memory since this was last asked."""

    def __init__(self) -> None:
        self._seen = kernel_kills()

    def words(self) -> str:
        """What is to be said of it; nothing if it has not."""
        before, self._seen = self._seen, kernel_kills()
        return f"the kernel killed it for want of memory: {limit()}" if self._seen > before else ""
