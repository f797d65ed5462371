"""How much memory a container has, told from files like the kernel's; and what raylets say of kills."""

import logging
from pathlib import Path

import pytest

from star_batch.errors import ClusterError
from star_batch.pipeline import memory
from star_batch.pipeline.attempts import Attempts, Process
from star_batch.pipeline.memory import Limit, kernel_kills, limit
from star_batch.pipeline.remarks import Kill, Remarks, kill_in

GIB = 2**30


def kernel(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_version_2_takes_the_least_of_all_groups_around(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pod/job\n",
        "sys/fs/cgroup/pod/job/memory.max": "max\n",
        "sys/fs/cgroup/pod/memory.max": f"{4 * GIB}\n",
        "sys/fs/cgroup/pod/job/memory.events": "low 0\noom 3\noom_kill 2\n",
    }
    root = kernel(tmp_path, files)
    assert limit(root, 64 * GIB) == Limit(4 * GIB, "memory.max")
    assert str(limit(root, 64 * GIB)) == "4.0 GiB, the limit of this container (memory.max)"
    assert kernel_kills(root) == 2


def test_version_1_where_the_path_is_the_hosts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "9:cpu:/x\n4:memory:/kubepods/abc\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
    }
    root = kernel(tmp_path, files)
    assert limit(root, 64 * GIB) == Limit(2 * GIB, "memory.limit_in_bytes")
    assert kernel_kills(root) == 5


@pytest.mark.parametrize("text", ["", "0::/\n", "no colons\n", "4:memory:/\n"])
def test_without_a_limit_it_is_the_machines(tmp_path: Path, text: str) -> None:
    files = {"proc/self/cgroup": text, "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 4096}"}
    root = kernel(tmp_path, files)
    assert str(limit(root, 64 * GIB)) == "64.0 GiB, all that this machine has"
    assert kernel_kills(root) == 0


REMARK = """Task _map_task failed due to oom. There are infinite oom retries remaining, so the task will be retried. \
Error: 2 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: ab) was \
22.47GB used / 23.54GB limit (0.95)
Considered workers: [
Selected to kill: (Task: job ID=01, lease ID=00, task name=ReadPlannedParquet, required resources={CPU: 0.5}, \
pid=11, actual memory used=0.11GB, worker ID=22)
Selected to kill: (Actor(dd): job ID=01, lease ID=03, task name=MapWorker(MapBatches(EngineActor)).__init__, required \
resources={CPU: 1}, pid=12, actual memory used=9.5GB, worker ID=65)
]"""


def remark(pid: int) -> dict[str, object]:
    return {"lines": [REMARK.replace("pid=12", f"pid={pid}")], "pid": "raylet"}


def test_the_largest_of_those_killed_is_named_with_what_helps() -> None:
    kill = kill_in(REMARK)
    assert isinstance(kill, Kill)
    assert str(kill) == (
        "for want of memory Ray killed an engine (9.5 GB), as 22.47 of 23.54 GB were in use there: "
        "give it more memory, or lower cluster.actors, engine.kv_memory_gib, cluster.rows_per_window"
    )
    assert kill_in("Task x failed. The actor was restarted") is None


def test_kills_with_no_row_in_between_end_the_job_and_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "star_batch"):
        remarks = Remarks(most=3)
        remarks._is_main = False  # nobody is to be stopped here
        for pid in (1, 2, 2):
            remarks.hear(remark(pid))
        remarks.check()
        remarks.progressed(5)
        for pid in (3, 4):
            remarks.hear(remark(pid))
        remarks.progressed(2)  # counts were lost: no row was finished
        remarks.check()
        remarks.hear(remark(5))
    with pytest.raises(ClusterError, match=r"killed an engine .* 3 times in a row, and no row was finished"):
        remarks.check()
    assert len(caplog.records) == 1


def test_a_row_whose_process_the_kernel_killed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([0, 0, 1])
    monkeypatch.setattr(memory, "kernel_kills", lambda: next(counts))
    witness, attempts = memory.Witness(), Attempts(max_attempts=1)
    attempts.open(Process("a", "1"), ("x",), witness.words())
    dispatch = attempts.open(Process("a", "2"), ("x",), witness.words())
    assert "crashed its worker once: the kernel killed it for want of memory: " in dispatch.quarantined["x"]
