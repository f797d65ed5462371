"""The request queue: who waits hears the end, whether the engine dies, is closed, or calls back."""

import threading
from concurrent.futures import Future

import pytest

from star_batch import Answer, Decoding, Engine, Record
from star_batch.errors import StarBatchError
from tests.tiny import random_records


def test_whoever_waits_for_a_dead_engine_hears_why(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.from_pretrained(tiny, dtype="float32")

    def fail(*_: object) -> None:
        raise RuntimeError("device lost")

    monkeypatch.setattr(engine._core._runner, "prefill", fail)
    with pytest.raises(RuntimeError, match="device lost"):
        engine.answer(random_records(3))
    with pytest.raises(RuntimeError, match="device lost"):
        engine.submit(random_records(3)).result(timeout=10)


def test_a_closed_engine_says_so(tiny: str) -> None:
    """A submission behind the end of the queue would have been waited for until the end of time."""
    engine = Engine.from_pretrained(tiny, dtype="float32")
    before = engine.submit(random_records(2), decoding=Decoding(max_new_tokens=2))
    engine.close()
    assert len(before.result(timeout=10)) == 2
    with pytest.raises(StarBatchError, match="the engine is closed"):
        engine.submit(random_records(2)).result(timeout=10)
    engine.close()


def test_a_callback_may_call_the_engine(tiny: str) -> None:
    """Futures are done outside of every lock: a callback that submits again used to wait for itself."""
    again: Future[list[Answer]] = Future()
    with Engine.from_pretrained(tiny, dtype="float32") as engine:
        bad = Record("bad", None, "w1")
        first = engine.submit([*random_records(2), bad], decoding=Decoding(max_new_tokens=2))
        first.add_done_callback(lambda _: again.set_result(engine.submit([bad]).result(timeout=10)))
        assert again.result(timeout=10)[0].error_kind == "image_missing"


def test_what_waits_in_the_queue_of_a_dying_engine_fails_too(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.from_pretrained(tiny, dtype="float32")
    entered, go_on = threading.Event(), threading.Event()

    def die(*_: object) -> None:
        entered.set()
        go_on.wait(10)
        raise RuntimeError("device lost")

    monkeypatch.setattr(engine._core._runner, "prefill", die)
    running = engine.submit(random_records(1))
    entered.wait(10)
    waiting = engine.submit(random_records(1))
    go_on.set()
    for future in (running, waiting):
        with pytest.raises(RuntimeError, match="device lost"):
            future.result(timeout=10)
