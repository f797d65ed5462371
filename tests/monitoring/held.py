"""The demo's engine, which keeps all answers but the first window's to itself while a file is there."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from star_batch.config import JobConfig
from star_batch.metrics import EngineStats, Readings
from star_batch.options import Decoding
from star_batch.pipeline.backend import RecordEngine, load_engine
from star_batch.records import Answer, Record


class HeldEngine:
    """Whoever looks at it meanwhile sees a job that is half done, for as long as they need."""

    def __init__(self, engine: RecordEngine, file: Path) -> None:
        self._engine = engine
        self._file = file
        self._has_answered = False

    def submit(self, records: Sequence[Record], *, decoding: Decoding | None = None) -> Future[list[Answer]]:
        answers = self._engine.submit(records, decoding=decoding)
        if not self._has_answered:
            self._has_answered = True
            return answers
        held: Future[list[Answer]] = Future()
        threading.Thread(target=self._hold, args=(answers, held), daemon=True).start()
        return held

    def _hold(self, answers: Future[list[Answer]], held: Future[list[Answer]]) -> None:
        while self._file.exists():
            time.sleep(0.1)
        held.set_result(answers.result())

    def stats(self) -> EngineStats:
        return self._engine.stats()

    def readings(self) -> Readings:
        return self._engine.readings()


def load_held(config: JobConfig, file: str) -> HeldEngine:
    return HeldEngine(load_engine(config), Path(file))
