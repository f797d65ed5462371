"""An actor's windows and the coordinator, without Ray: who runs beside whom, and what ends a process."""

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest

from star_batch.config import Faults
from star_batch.errors import ClusterError, TooManyFailed
from star_batch.pipeline.attempts import Process, Rows
from star_batch.pipeline.failure_limit import Failure
from star_batch.pipeline.quarantine import Coordinator, Quarantine, is_device_failure
from star_batch.records import Answer

OLD, NEW = Process("a", "1"), Process("a", "2")


class Sent:
    """A reply that is there at once."""

    def __init__(self, value: object) -> None:
        self.value = value

    def future(self) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(self.value)
        return future


class Remote:
    """The coordinator as a Ray handle shows it."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.coordinator, name)
        return type("Method", (), {"remote": staticmethod(lambda *args: Sent(method(*args)))})


class Engine:
    """Notes down which rows were in it together."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.seen: dict[str, set[str]] = {}

    async def run(self, ids: Rows) -> list[Answer]:
        self.running += ids
        for id in self.running:
            self.seen.setdefault(id, set()).update(self.running)
        await asyncio.sleep(0.01)
        self.running = [id for id in self.running if id not in ids]
        return [Answer(id=id, text="x") for id in ids]


def answer_all(coordinator: Coordinator, engine: Engine, windows: list[Rows]) -> list[list[Answer]]:
    async def together() -> list[list[Answer]]:
        quarantine = Quarantine(Remote(coordinator), NEW, windows=3)
        return await asyncio.gather(*(quarantine.answer(ids, engine.run) for ids in windows))

    return asyncio.run(together())


def test_suspects_are_alone_and_the_others_are_not() -> None:
    coordinator, engine = Coordinator(Faults()), Engine()
    suspects = [("p1", "p2"), ("q1", "q2", "q3", "q4", "q5")]
    others = [(f"{n}-a", f"{n}-b") for n in range(8)]
    for ids in suspects:
        coordinator.open(OLD, ids)
    answers = answer_all(coordinator, engine, [*others[:4], *suspects, *others[4:]])
    assert [[answer.id for answer in window] for window in answers] == [
        list(ids) for ids in [*others[:4], *suspects, *others[4:]]
    ]
    assert engine.seen["p1"] == {"p1"}
    assert engine.seen["q1"] == {"q1", "q2"}
    assert max(len(engine.seen[ids[0]]) for ids in others) >= 6


def test_a_row_that_has_proved_deadly_is_not_run_and_keeps_its_place() -> None:
    coordinator, engine = Coordinator(Faults(max_attempts=1)), Engine()
    coordinator.open(OLD, ("p",))
    coordinator.leave(OLD, "CUDA error: x")
    [answers] = answer_all(coordinator, engine, [("a", "p", "b")])
    assert [(answer.id, answer.error_kind) for answer in answers] == [("a", None), ("p", "quarantined"), ("b", None)]
    assert answers[1].error == "crashed its worker once: CUDA error: x"
    assert "p" not in engine.seen


def test_a_window_without_a_row_to_answer_hears_that_the_budget_is_spent() -> None:
    coordinator = Coordinator(Faults(max_failed=0))
    assert answer_all(coordinator, Engine(), [()]) == [[]]
    coordinator.count(0, [Failure("x", "image_missing", "no image")])
    with pytest.raises(TooManyFailed):
        answer_all(coordinator, Engine(), [()])


def test_an_actor_that_only_dies_is_told_apart_from_a_row_that_kills() -> None:
    coordinator = Coordinator(Faults(max_deaths_in_a_row=3))
    for life in range(3):
        coordinator.open(Process("a", f"{life}"), ("x",))
        coordinator.begin(Process("a", f"{life}"), ("x",))
    coordinator.leave(Process("a", "2"), "uncorrectable ECC")
    with pytest.raises(ClusterError, match=r"died 3 times in a row .* \(uncorrectable ECC\): its machine"):
        coordinator.open(Process("a", "3"), ("x",))


class AcceleratorError(RuntimeError):
    """Torch's own, which is not needed here."""


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be"), True),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"), True),
        (AcceleratorError("an illegal memory access was encountered"), True),
        (AcceleratorError("CUDA error: no kernel image is available for execution on the device"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), False),
    ],
)
def test_what_only_a_fresh_process_mends(error: RuntimeError, is_lost: bool) -> None:
    assert is_device_failure(error) == is_lost
