"""The door: records in, answers out, in the order of the records.

One thread of the engine's own steps the model; any number of callers submit windows of records, and
rows of all windows form batches together. Knows no Ray, no table and no storage.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from concurrent.futures import Future
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

import torch

from star_batch.engine import kv_cache
from star_batch.engine.attention import ATTENTION
from star_batch.engine.core import Core
from star_batch.engine.finish import answer_of
from star_batch.engine.intake import Intake
from star_batch.engine.runner import Runner
from star_batch.engine.scheduler import Budget, Scheduler
from star_batch.engine.sequence import Sequence
from star_batch.errors import ConfigError, RecordError
from star_batch.metrics import EngineStats
from star_batch.models import (
    Checkpoint,
    Preprocessor,
    VisionLanguageModel,
    choose_device,
    choose_dtype,
    family_of,
)
from star_batch.options import Decoding, Dtype, EngineOptions, Pruning
from star_batch.pruning import PruningPlan, make_plan
from star_batch.records import Answer, Record

_TYPICAL_TEXT = 256  # prompt and answer tokens that the KV cache is sized for; longer rows take more pages


@dataclass(slots=True)
class _Window:
    """The answers of one submission, filled in as its rows finish."""

    answers: list[Answer | None]
    missing: int
    future: Future[list[Answer]] = field(default_factory=Future)

    def put(self, index: int, answer: Answer) -> None:
        self.answers[index] = answer
        self.missing -= 1
        if self.missing == 0 and not self.future.cancelled():
            self.future.set_result([answer for answer in self.answers if answer is not None])


@dataclass(frozen=True, slots=True)
class _Ticket:
    """Whose answer a sequence is."""

    window: _Window
    index: int


_Arrival: TypeAlias = tuple[Sequence, _Ticket]


class Engine:
    """A token-pruned vision-language model that answers records in batches.

    Made by `Engine.from_pretrained`; `close()` it, or use it as a context manager, to end its thread.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        preprocessor: Preprocessor,
        plan: PruningPlan,
        *,
        stop_ids: frozenset[int],
        options: EngineOptions,
    ) -> None:
        self.plan = plan
        self._stats = EngineStats()
        self._max_rows = options.max_rows
        budget, cache = _memory(model, plan, preprocessor, options)
        self._intake = Intake(model, preprocessor, plan, budget)
        runner = Runner(model, plan, cache, self._stats, page_size=options.page_size, vision_batch=options.vision_batch)
        self._core = Core(Scheduler(budget), runner, self._stats, stop_ids=stop_ids, decode=preprocessor.decode)
        self._inbox: queue.SimpleQueue[list[_Arrival] | None] = queue.SimpleQueue()
        self._tickets: dict[Sequence, _Ticket] = {}
        self._is_closing = False
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="star-batch-engine", daemon=True)
        self._thread.start()

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        pruning: Pruning | None = None,
        revision: str | None = None,
        dtype: Dtype = "auto",
        device: str = "auto",
        trust_remote_code: bool = False,
        options: EngineOptions | None = None,
    ) -> "Engine":
        """An engine for a checkpoint: a local directory, a hub id, or `demo`.

        Everything that can be refused is refused before the weights are read. Weights are read as
        safetensors only; remote code runs only with `trust_remote_code`.

        Raises:
            ModelError: the checkpoint is missing, unreadable or of a family that is not supported.
            ConfigError: the pruning does not fit the model's depth.
        """
        checkpoint = Checkpoint(name=str(model), revision=revision, trust_remote_code=trust_remote_code)
        config = checkpoint.config()
        family = family_of(checkpoint, config)
        layers, num_visual = config.text_config.num_hidden_layers, family.num_visual_of(config)
        plan = make_plan(pruning or Pruning(), layers, num_visual)
        target = choose_device(device)
        preprocessor = Preprocessor.from_checkpoint(checkpoint)
        loaded = family.load(
            checkpoint,
            dtype=choose_dtype(dtype, config, target),
            device=target,
            normalisation=preprocessor.normalisation,
            attention=ATTENTION,
        )
        stop_ids = checkpoint.stop_ids() or preprocessor.stop_ids
        return cls(loaded, preprocessor, plan, stop_ids=stop_ids, options=options or EngineOptions())

    def answer(
        self, records: Iterable[Record], *, max_new_tokens: int | None = None, decoding: Decoding | None = None
    ) -> list[Answer]:
        """Answers to all records, in their order; a record that cannot be answered gets an error.

        `max_new_tokens` is short for a greedy `decoding` with that limit. Images are decoded a few
        windows ahead, not all at once.

        Raises:
            ConfigError: `max_new_tokens` is out of range, or given beside `decoding`.
        """
        chosen = _decoding(max_new_tokens, decoding)
        answers: list[Answer] = []
        pending: deque[Future[list[Answer]]] = deque()
        for window in _windows(records, 2 * self._max_rows):
            pending.append(self.submit(window, decoding=chosen))
            if len(pending) > 2:
                answers += pending.popleft().result()
        return answers + [answer for future in pending for answer in future.result()]

    def submit(self, records: Seq[Record], *, decoding: Decoding | None = None) -> Future[list[Answer]]:
        """Answers to a window of records, later. Safe to call from any thread.

        The future raises whatever ended the engine's thread, if something has.
        """
        window = _Window([None] * len(records), len(records))
        if not records:
            window.future.set_result([])
        tickets = [_Ticket(window, index) for index in range(len(records))]
        self._inbox.put(self._take_in(records, tickets, decoding or Decoding()))
        if self._failure is not None:
            _fail(window, self._failure)
        return window.future

    def stats(self) -> EngineStats:
        """Counters since the start, as they are now."""
        return copy(self._stats)

    def close(self) -> None:
        """Finish what was submitted and end the thread."""
        self._inbox.put(None)
        self._thread.join()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_in(self, records: Seq[Record], tickets: Seq[_Ticket], decoding: Decoding) -> list[_Arrival]:
        """What of a window can run; it goes to the engine in one piece, so that its rows meet in one batch."""
        arrivals = []
        start = time.perf_counter()
        for record, ticket in zip(records, tickets, strict=True):
            try:
                arrivals.append((self._intake.sequence(record, decoding), ticket))
            except RecordError as error:
                self._put(ticket, Answer.failed(record.id, error))
                self._stats.rows_failed += 1
        self._stats.decode_image_seconds += time.perf_counter() - start
        return arrivals

    def _put(self, ticket: _Ticket, answer: Answer) -> None:
        """Rows fail in the caller's thread and finish in the engine's."""
        with self._lock:
            ticket.window.put(ticket.index, answer)

    @torch.inference_mode()
    def _run(self) -> None:
        """The engine's thread: take what was submitted, step until all is done, wait for more."""
        try:
            while self._receive():
                for sequence in self._core.step():
                    self._put(self._tickets.pop(sequence), answer_of(sequence))
        except BaseException as error:  # whatever it is, no caller may wait for ever
            self._failure = error
            self._abandon(error)

    def _receive(self) -> bool:
        """Take in all that has arrived; waits only when idle. False once closed and idle."""
        while not (self._is_closing and self._core.is_idle):
            try:
                arrived = self._inbox.get(block=self._core.is_idle)
            except queue.Empty:
                return True
            if arrived is None:
                self._is_closing = True
                continue
            for sequence, ticket in arrived:
                self._tickets[sequence] = ticket
                self._core.add(sequence)
        return False

    def _abandon(self, error: BaseException) -> None:
        for ticket in self._tickets.values():
            _fail(ticket.window, error)
        while not self._inbox.empty():
            for _, ticket in self._inbox.get() or ():
                _fail(ticket.window, error)


def _fail(window: _Window, error: BaseException) -> None:
    if not window.future.done():
        window.future.set_exception(error)


def _memory(
    model: VisionLanguageModel, plan: PruningPlan, preprocessor: Preprocessor, options: EngineOptions
) -> tuple[Budget, kv_cache.KVCache]:
    """The KV cache that the memory allows, and the budget that goes with it."""
    num_visual = model.num_visual(preprocessor.shape)
    num_pages = kv_cache.num_pages(
        model,
        plan.layer_groups,
        [count + _TYPICAL_TEXT for count in plan.counts(num_visual)],
        page_size=options.page_size,
        max_rows=options.max_rows,
        memory_gib=options.kv_memory_gib,
    )
    budget = Budget(
        max_rows=options.max_rows,
        max_prefill_tokens=options.max_prefill_tokens,
        page_size=options.page_size,
        num_pages=num_pages,
    )
    return budget, kv_cache.KVCache(model, plan.layer_groups, [n * options.page_size for n in num_pages])


def _decoding(max_new_tokens: int | None, decoding: Decoding | None) -> Decoding:
    if max_new_tokens is None:
        return decoding or Decoding()
    if decoding is not None:
        raise ConfigError("give max_new_tokens or decoding, not both")
    return Decoding(max_new_tokens=max_new_tokens)


def _windows(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    iterator = iter(records)
    while window := list(islice(iterator, size)):
        yield window
