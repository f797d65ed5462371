"""An engine that is dropped without `close()`: it must not keep its memory for as long as the process lives."""

import gc
import threading
import time
import weakref

from star_batch import Engine
from tests.tiny import random_records


def test_a_dropped_engine_answers_what_it_has_and_is_collected(tiny: str) -> None:
    """A notebook makes the next one in the same name; a GPU would be full after two."""
    engine = Engine.from_pretrained(tiny, dtype="float32")
    seen = weakref.ref(engine)
    model = weakref.ref(engine._core._runner.model)
    thread: threading.Thread = engine._thread
    future = engine.submit(random_records(3))
    del engine
    gc.collect()
    assert seen() is None
    assert [answer.error for answer in future.result(timeout=60)] == [None] * 3
    thread.join(timeout=60)
    assert not thread.is_alive()
    deadline = time.monotonic() + 30
    while model() is not None and time.monotonic() < deadline:
        gc.collect()
    assert model() is None
