"""The door: records in, answers out, in the order of the records.

One thread of the engine's own steps the model; any number of callers submit windows of records, and
rows of all windows form batches together. Knows no Ray, no table and no storage.
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Seq
from concurrent.futures import Future
from itertools import islice

from star_batch.engine import kv_cache
from star_batch.engine.admission import Admission
from star_batch.engine.allocator import keep_memory
from star_batch.engine.attention import ATTENTION
from star_batch.engine.core import Core
from star_batch.engine.loop import Loop
from star_batch.engine.repetition import Repetition
from star_batch.engine.request_queue import RequestQueue, Ticket, Window
from star_batch.engine.runner import Runner
from star_batch.engine.scheduler import Budget, Scheduler
from star_batch.engine.stopwatch import Stopwatch
from star_batch.engine.threads import on_passing_thread
from star_batch.engine.vision import VisionRunner
from star_batch.errors import ConfigError, RecordError, StarBatchError
from star_batch.metrics import EngineStats, Readings
from star_batch.models import (
    Checkpoint,
    Preprocessor,
    VisionLanguageModel,
    choose_device,
    choose_dtype,
    family_of,
    generation_of,
)
from star_batch.options import Decoding, Dtype, EngineOptions
from star_batch.pruning import Pruning, PruningPlan, make_plan
from star_batch.records import Answer, Record

# A larger batch fills no more of a processor, and its intermediate results leave the cache and the allocator's pool.
_PREFILL_TOKENS = {"cpu": 2048}
# A selection is hundreds of small kernels, whether for one image or for many: a GPU gets many.
_VISION_BATCH = {"cpu": 8, "cuda": 64}
_TYPICAL_TEXT = 256  # prompt and answer tokens that the KV cache is sized for; longer rows take more pages


class Engine:
    """A token-pruned vision-language model that answers records in batches.

    Made by `Engine.from_pretrained`; `close()` it, or use it as a context manager, to end its thread. An engine that
    is dropped finishes what was submitted and ends by itself.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        preprocessor: Preprocessor,
        plan: PruningPlan,
        *,
        stop_ids: frozenset[int],
        repetition_penalty: float = 1.0,
        options: EngineOptions,
        scheduler: Callable[[Budget], Scheduler] = Scheduler,
    ) -> None:
        if model.device.type == "cpu":
            keep_memory()
        self.plan = plan
        self._stats = EngineStats()
        self._max_rows = options.max_rows
        budget, cache = on_passing_thread(lambda: _memory(model, plan, preprocessor, options))
        self._admission = Admission(
            model, preprocessor, plan, budget, can_stop=bool(stop_ids), repetition_penalty=repetition_penalty
        )
        stopwatch = Stopwatch(self._stats, model.device)
        batch_size = options.vision_batch or _VISION_BATCH[model.device.type]
        self._core = Core(
            scheduler(budget),
            VisionRunner(model, plan, self._stats, stopwatch=stopwatch, batch_size=batch_size),
            Runner(
                model,
                plan,
                cache,
                self._stats,
                budget=budget,
                stopwatch=stopwatch,
                share_prefix=options.share_prefix,
            ),
            self._stats,
            stopwatch=stopwatch,
            stop_ids=stop_ids,
            repetition=Repetition(preprocessor.image_id),
            decode=preprocessor.decode,
        )
        self._request_queue = RequestQueue()
        self._loop = Loop(self._core, self._request_queue, model.device)
        self._thread = self._loop.start()
        # Dropped without `close()`, it ends its thread all the same; at the program's end that is nobody's business.
        ending = StarBatchError("the engine was dropped")
        weakref.finalize(self, self._request_queue.close, ending).atexit = False

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
        if pruning is not None and not isinstance(pruning, Pruning):
            raise ConfigError(f"pruning={pruning!r}: give Pruning(method=..., keep=...)")
        checkpoint = Checkpoint(name=str(model), revision=revision, trust_remote_code=trust_remote_code)
        config = checkpoint.config()
        family = family_of(checkpoint, config)
        layers, num_visual = config.text_config.num_hidden_layers, family.num_visual_of(config)
        plan = make_plan(pruning or Pruning(), layers, num_visual, family.num_axes)
        target = choose_device(device)
        preprocessor = Preprocessor.from_checkpoint(checkpoint)
        generation = generation_of(checkpoint, config)
        loaded = on_passing_thread(
            lambda: family.load(
                checkpoint,
                dtype=choose_dtype(dtype, config, target),
                device=target,
                normalisation=preprocessor.normalisation,
                attention=ATTENTION,
            )
        )
        return cls(
            loaded,
            preprocessor,
            plan,
            stop_ids=generation.stop_ids or preprocessor.stop_ids,
            repetition_penalty=generation.repetition_penalty,
            options=options or EngineOptions(),
        )

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

        The future raises whatever ended the engine's thread, if something has; it cannot be cancelled.
        """
        window = Window(len(records))
        arrivals = []
        for index, record in enumerate(records):
            try:
                sequence = self._admission.admit(record, decoding or Decoding())
            except RecordError as error:
                window.put(index, Answer.failed(record.id, error))
            else:
                arrivals.append((sequence, Ticket(window, index)))
        if arrivals:  # in one piece, so that rows of a window meet in one batch
            self._request_queue.put(arrivals)
        return window.future

    def stats(self) -> EngineStats:
        """Counters since the start, as they are now."""
        return self._stats + self._admission.stats()

    def readings(self) -> Readings:
        """What it holds now, its steps, and the time without any. Safe to call from any thread."""
        return self._core.readings() + Readings(idle_seconds=self._loop.idle_seconds)

    def close(self) -> None:
        """Finish what was submitted and end the thread; what is submitted from now on fails."""
        self._request_queue.close(StarBatchError("the engine is closed"))
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _memory(
    model: VisionLanguageModel, plan: PruningPlan, preprocessor: Preprocessor, options: EngineOptions
) -> tuple[Budget, kv_cache.KVCache]:
    """The KV cache that the memory allows, and the budget that goes with it."""
    num_visual = model.layout(preprocessor.typical).num_visual
    num_pages = kv_cache.num_pages(
        model,
        plan.layer_groups,
        [count + _TYPICAL_TEXT for count in plan.counts(num_visual)],
        page_size=options.page_size,
        max_rows=options.max_rows,
        memory_gib=options.kv_memory_gib,
        memory_share=options.memory_share,
    )
    budget = Budget(
        max_rows=options.max_rows,
        max_prefill_tokens=options.max_prefill_tokens or _PREFILL_TOKENS.get(model.device.type, 8192),
        page_size=options.page_size,
        num_pages=num_pages,
    )
    # One page more than is handed out: decode steps of fixed size leave there what belongs to nobody.
    return budget, kv_cache.KVCache(model, plan.layer_groups, [n + 1 for n in num_pages], options.page_size)


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
