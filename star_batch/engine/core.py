"""One step at a time: schedule, run, finish. Single-threaded; knows no caller and no record."""

import time
from collections import deque

from star_batch.engine.finish import Decode, extend
from star_batch.engine.runner import Runner
from star_batch.engine.sampling import next_tokens
from star_batch.engine.scheduler import Scheduler
from star_batch.engine.sequence import Sequence
from star_batch.metrics import EngineStats


class Core:
    """Sequences in by `add`, finished sequences out of `step`."""

    def __init__(
        self, scheduler: Scheduler, runner: Runner, stats: EngineStats, *, stop_ids: frozenset[int], decode: Decode
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._stats = stats
        self._stop_ids = stop_ids
        self._decode = decode
        self._unseen: deque[Sequence] = deque()

    def add(self, sequence: Sequence) -> None:
        self._unseen.append(sequence)

    @property
    def is_idle(self) -> bool:
        return not (self._unseen or self._scheduler.waiting or self._scheduler.running)

    def step(self) -> list[Sequence]:
        """Run one batch; the sequences that finished with it."""
        self._encode_ahead()
        batch = self._scheduler.schedule()
        if batch is None:
            return []
        if batch.phase == "prefill":
            logits = self._runner.prefill(batch.sequences)
        else:
            logits = self._runner.decode(batch.sequences)
            self._stats.decode_slots += self._scheduler.budget.max_rows
        tokens = next_tokens(logits, batch.sequences, self._stop_ids)
        return self._finish(batch.sequences, tokens)

    def _encode_ahead(self) -> None:
        """Keep a full set of rows waiting, so that there are like lengths to choose from."""
        while self._unseen and len(self._scheduler.waiting) < self._scheduler.budget.max_rows:
            size = min(self._runner.vision_batch, len(self._unseen))
            images = [self._unseen.popleft() for _ in range(size)]
            self._runner.encode(images)
            for sequence in images:
                self._scheduler.add(sequence)

    def _finish(self, sequences: list[Sequence], tokens: list[int]) -> list[Sequence]:
        for sequence, token in zip(sequences, tokens, strict=True):
            extend(sequence, token, stop_ids=self._stop_ids, decode=self._decode)
        self._scheduler.remove_finished()
        finished = [sequence for sequence in sequences if sequence.is_finished]
        for sequence in finished:
            sequence.clock.finished = time.perf_counter()
        self._stats.rows_answered += len(finished)
        self._stats.output_tokens += sum(len(sequence.output) for sequence in finished)
        return finished
