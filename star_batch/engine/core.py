"""One step at a time: schedule, run, finish. Single-threaded; knows no caller and no record."""

import time
from collections import deque
from itertools import islice
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from star_batch.engine.finish import Decode, extend
from star_batch.engine.repetition import Repetition
from star_batch.engine.runner import Runner
from star_batch.engine.sampling import next_tokens
from star_batch.engine.scheduler import Scheduler
from star_batch.engine.sequence import EncodedImage, Sequence, SequenceImage
from star_batch.engine.stopwatch import Stopwatch
from star_batch.engine.vision import VisionRunner
from star_batch.errors import RowTooLarge
from star_batch.metrics import EngineStats, Phase, Readings


class Core:
    """Sequences in by `add`, finished sequences out of `step`."""

    def __init__(
        self,
        scheduler: Scheduler,
        vision: VisionRunner,
        runner: Runner,
        stats: EngineStats,
        *,
        stopwatch: Stopwatch,
        stop_ids: frozenset[int],
        repetition: Repetition,
        decode: Decode,
    ) -> None:
        self._scheduler = scheduler
        self._vision = vision
        self._runner = runner
        self._stats = stats
        self._stopwatch = stopwatch
        self._stop_ids = stop_ids
        self._repetition = repetition
        self._decode = decode
        self._readings = Readings()
        self._unseen: deque[Sequence] = deque()
        self._is_full = False
        # Images that rows in flight still hold; an entry goes when the last of them is prefilled.
        self._images: WeakValueDictionary[bytes, EncodedImage] = WeakValueDictionary()

    def add(self, sequence: Sequence) -> None:
        self._unseen.append(sequence)

    @property
    def is_idle(self) -> bool:
        return not (self._unseen or self._scheduler.waiting or self._scheduler.running)

    def readings(self) -> Readings:
        """What it holds now, and the steps so far. Safe to call from any thread."""
        free, pages = self._scheduler.num_free_pages, self._scheduler.budget.num_pages
        held = Readings(
            rows_waiting=len(self._unseen) + len(self._scheduler.waiting),
            rows_running=len(self._scheduler.running),
            pages_in_use=tuple(has - left for has, left in zip(pages, free, strict=True)),
            pages=pages,
        )
        return self._readings + held

    def step(self) -> list[Sequence]:
        """Run one batch; the sequences that finished with it."""
        failed = self._encode_ahead()
        batch = self._scheduler.schedule()
        if batch is None:
            assert not self._scheduler.waiting, "nothing runs, yet what waits does not fit: pages were lost"
            return failed
        if batch.phase == "decode":
            self._stats.decode_slots += self._scheduler.budget.max_rows
        start = time.perf_counter()
        with self._stopwatch.stage(f"{batch.phase}_seconds"):
            num_runs = self._run(batch.phase, batch.sequences)
        self._readings.observe(batch.phase, rows=len(batch.sequences), seconds=time.perf_counter() - start)
        if batch.phase == "prefill":
            for sequence in batch.sequences:
                self._readings.keep(sequence.counts)
        if num_runs > 1 and not any(sequence.error for sequence in batch.sequences):
            self._scheduler.shrink(batch)
        finished = failed + self._finish(batch.sequences)
        if finished or batch.phase == "prefill":
            self._is_full = False
        self._stopwatch.settle()
        return finished

    def _encode_ahead(self) -> list[Sequence]:
        """Keep a full set of rows waiting, so that there are like lengths to choose from.

        What does not fit while other rows hold memory comes again when some of it is free.

        Returns:
            Rows that have an image which does not fit even then.
        """
        while self._unseen and not self._is_full and len(self._scheduler.waiting) < self._scheduler.budget.max_rows:
            left_out = self._encode_some()
            if left_out and not (self._scheduler.waiting or self._scheduler.running):
                return [self._refuse(sequence) for sequence in left_out]
            self._is_full = bool(left_out)
            self._unseen.extendleft(reversed(left_out))
        return []

    def _encode_some(self) -> list[Sequence]:
        """The next rows are made ready.

        Returns:
            Those that have an image for which there is no memory.
        """
        rows, fresh = self._take_unseen()
        start = time.perf_counter()
        encoded = self._encode(list(fresh.values()))
        seconds = time.perf_counter() - start
        left_out = []
        for sequence in rows:
            if any(image.key in encoded for image in sequence.images):
                sequence.clock.vision = seconds
            if all(image.key in self._images for image in sequence.images):
                self._add_encoded(sequence)
            else:
                left_out.append(sequence)
        return left_out

    def _take_unseen(self) -> tuple[list[Sequence], dict[bytes, SequenceImage]]:
        """The next rows, and their new images by key: as many as one encoder call takes, or those of one row."""
        rows: list[Sequence] = []
        fresh: dict[bytes, SequenceImage] = {}
        for sequence in islice(self._unseen, self._scheduler.budget.max_rows):
            new = {image.key: image for image in sequence.images if image.key not in self._images}
            if fresh and len(fresh | new) > self._vision.batch_size:
                break
            fresh |= {key: image for key, image in new.items() if key not in fresh}
            rows.append(sequence)
        for _ in rows:
            self._unseen.popleft()
        return rows, fresh

    def _encode(self, fresh: list[SequenceImage]) -> dict[bytes, EncodedImage]:
        """Encoded images by key; they are held here until the rows hold them.

        Out of memory, half as many at once from now on; one that does not fit alone is left out.
        """
        encoded: dict[bytes, EncodedImage] = {}
        while fresh:
            part = fresh[: self._vision.batch_size]
            images = self._encode_at_once(part)
            if images is None and self._vision.batch_size > 1:
                self._vision.batch_size //= 2
                continue
            encoded |= zip((image.key for image in part), images or (), strict=False)
            fresh = fresh[len(part) :]
        self._images.update(encoded)
        return encoded

    def _encode_at_once(self, images: list[SequenceImage]) -> list[EncodedImage] | None:
        """None: the device has not the memory."""
        try:
            return self._vision.encode(images)
        except torch.OutOfMemoryError:
            return None

    def _refuse(self, sequence: Sequence) -> Sequence:
        sequence.error = RowTooLarge("the device ran out of memory on one of the row's images alone")
        self._stats.rows_failed += 1
        return sequence

    def _add_encoded(self, sequence: Sequence) -> None:
        for image in sequence.images:
            image.encoded, image.picture = self._images[image.key], None
        per_image = [image.survivors.counts for image in sequence.images]
        sequence.counts = tuple(map(sum, zip(*per_image, strict=True)))
        self._scheduler.add(sequence)

    def _run(self, phase: Phase, sequences: list[Sequence]) -> int:
        """Extend every sequence by a token. Out of memory, the batch is run in halves; a lone row fails alone.

        Returns:
            How many runs it took.
        """
        try:
            logits = self._runner.prefill(sequences) if phase == "prefill" else self._runner.decode(sequences)
        except torch.OutOfMemoryError:
            if len(sequences) == 1:
                sequences[0].error = RowTooLarge("the device ran out of memory on this row alone; prune more")
                return 1
        else:
            self._extend(sequences, logits)
            return 1
        middle = len(sequences) // 2
        return self._run(phase, sequences[:middle]) + self._run(phase, sequences[middle:])

    def _extend(self, sequences: list[Sequence], logits: Tensor) -> None:
        self._repetition.penalise(logits, sequences)
        tokens = next_tokens(logits, sequences, self._stop_ids)
        for sequence, token in zip(sequences, tokens, strict=True):
            for image in sequence.images:
                image.encoded = None
            extend(sequence, token, stop_ids=self._stop_ids, decode=self._decode)

    def _finish(self, sequences: list[Sequence]) -> list[Sequence]:
        finished = [sequence for sequence in sequences if sequence.is_finished]
        for sequence in finished:
            if sequence.error is not None:
                self._runner.forget(sequence)
            sequence.clock.finished = time.perf_counter()
            self._stats.output_tokens += len(sequence.output)
            self._stats.rows_answered += sequence.error is None
            self._stats.rows_failed += sequence.error is not None
        self._scheduler.remove_finished()
        return finished
