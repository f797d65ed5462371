"""Who is measured: the library's own `generate` in fixed batches, and our engine under a pruning.

Each answers the same records and says how long it took and what it did meanwhile. Tokenizing is on the clock
for both, decoding images for neither. Knows no rounds and no table.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from star_batch.bench.rates import synchronise
from star_batch.bench.results import label_of
from star_batch.bench.subject import Subject
from star_batch.bench.workload import picture_of
from star_batch.engine import Engine
from star_batch.errors import StarBatchError
from star_batch.metrics import EngineStats
from star_batch.models import Prompt, VisionLanguageModel
from star_batch.options import Decoding, EngineOptions
from star_batch.pruning import Pruning, PruningPlan
from star_batch.records import Answer, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """All records answered once, in `seconds`.

    `outputs` are token ids without the stop token, `texts` what they say. `padding` is the share of positions
    that held nothing: of prompts in `generate`, of keys read while decoding in ours. `occupancy` is the share of
    decode slots that held a row, `rows_per_step` how many that were. `layer_tokens`: visual tokens that a layer
    sees on average. `shared_tokens` of a row, on average, were run once for several. `stage_seconds` of `generate`:
    vision counts as prefill.
    """

    seconds: float
    outputs: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    stage_seconds: dict[str, float]
    layer_tokens: float
    padding: float
    occupancy: float
    rows_per_step: float
    shared_tokens: float = 0.0


Answering: TypeAlias = Callable[[Sequence[Record], int], Pass]
"""Records and the most tokens of an answer, to what came of it."""


class Contender(Protocol):
    """Opened for a while, then closed again, so that the next one has the memory."""

    @property
    def label(self) -> str: ...
    @property
    def pruning(self) -> Pruning | None:
        """None for the library."""

    @property
    def batch(self) -> int | None:
        """None for ours, whose batches are not fixed."""

    def opened(self, *, is_forced: bool) -> AbstractContextManager[Answering]:
        """Forced answers do not end before the most tokens."""


def release_memory() -> None:
    """Give what the last contender held back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True)
class Generate:
    """transformers' greedy `generate`, left-padded, in batches of `batch` in the order of arrival."""

    subject: Subject
    batch: int
    pruning: None = None

    @property
    def label(self) -> str:
        return f"generate {self.batch}"

    @contextmanager
    def opened(self, *, is_forced: bool) -> Iterator[Answering]:
        # The library fills what a call leaves open from the model's settings: the stop token goes there.
        settings = self.subject.model.generation_config
        before = settings.eos_token_id
        settings.eos_token_id = None if is_forced else sorted(self.subject.stop_ids)
        try:
            yield self._answer
        finally:
            settings.eos_token_id = before

    def _answer(self, records: Sequence[Record], most: int) -> Pass:
        tally = _BatchTally()
        outputs: list[tuple[int, ...]] = []
        start = time.perf_counter()
        for first in range(0, len(records), self.batch):
            outputs += self._answer_batch(records[first : first + self.batch], most, tally)
        texts = tuple(map(self.subject.preprocessor.decode, outputs))
        seconds = time.perf_counter() - start
        return Pass(
            seconds=seconds,
            outputs=tuple(outputs),
            texts=texts,
            stage_seconds={"prefill": tally.prefill_seconds, "decode": tally.decode_seconds},
            layer_tokens=self.subject.num_visual,
            padding=1 - tally.tokens / tally.padded_tokens,
            occupancy=tally.rows_steps / tally.slots_steps,
            rows_per_step=tally.rows_steps / tally.steps,
        )

    @torch.inference_mode()
    def _answer_batch(self, records: Sequence[Record], most: int, tally: "_BatchTally") -> list[tuple[int, ...]]:
        start = time.perf_counter()
        preprocessor, device = self.subject.preprocessor, self.subject.device
        prompts = [preprocessor.prompt(record.prompt, raw=record.raw) for record in records]
        rows = [self._token_ids(prompt) for prompt in prompts]
        longest = max(map(len, rows))
        clock = _FirstToken(device)
        out = self.subject.model.generate(
            input_ids=torch.tensor([[self._pad] * (longest - len(row)) + row for row in rows], device=device),
            attention_mask=torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device),
            pixel_values=self._pixels(records),
            max_new_tokens=most,
            do_sample=False,
            pad_token_id=self._pad,
            logits_processor=[clock],
        )
        outputs = [self._without_stop(row) for row in out[:, longest:].tolist()]
        tally.add([len(row) for row in rows], out.shape[1] - longest, list(map(len, outputs)), self.batch)
        tally.prefill_seconds += clock.time - start
        tally.decode_seconds += time.perf_counter() - clock.time
        return outputs

    @property
    def _pad(self) -> int:
        return int(self.subject.preprocessor.tokenizer.pad_token_id or 0)

    def _token_ids(self, prompt: Prompt) -> list[int]:
        before, after = prompt.texts
        return [*before, *[self.subject.config.image_token_id] * self.subject.num_visual, *after]

    def _pixels(self, records: Sequence[Record]) -> Tensor:
        """Normalised on the device, as our engine does it."""
        normalisation, device = self.subject.preprocessor.normalisation, self.subject.device
        pixels = torch.from_numpy(np.concatenate([picture_of(record).views for record in records])).to(device)
        mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (normalisation.mean, normalisation.std))
        scaled = (pixels.permute(0, 3, 1, 2).float() * normalisation.scale - mean) / std
        return scaled.to(self.subject.dtype)

    def _without_stop(self, row: list[int]) -> tuple[int, ...]:
        settings = self.subject.model.generation_config
        stops = set(settings.eos_token_id or ())
        end = next((place for place, token in enumerate(row) if token in stops), len(row))
        return tuple(row[:end])


class _FirstToken:
    """Stands among the logits processors to see when the prompts are done."""

    def __init__(self, device: torch.device) -> None:
        self.time = 0.0
        self._device = device

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self.time:
            synchronise(self._device)
            self.time = time.perf_counter()
        return scores


@dataclass(slots=True)
class _BatchTally:
    """Sums over the batches of `generate`."""

    tokens: int = 0
    padded_tokens: int = 0
    steps: int = 0
    rows_steps: int = 0
    slots_steps: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    def add(self, lengths: Sequence[int], steps: int, outputs: Sequence[int], batch: int) -> None:
        self.tokens += sum(lengths)
        self.padded_tokens += max(lengths) * len(lengths)
        self.steps += steps
        # A stop token is a step of its row, too.
        self.rows_steps += sum(min(length + 1, steps) for length in outputs)
        self.slots_steps += steps * batch


@dataclass(frozen=True, slots=True)
class Ours:
    """Our engine under one pruning; every engine runs over the same tensors."""

    subject: Subject
    adapter: VisionLanguageModel
    pruning: Pruning
    plan: PruningPlan
    options: EngineOptions
    batch: None = None

    @property
    def label(self) -> str:
        return label_of(self.pruning.method, self.pruning.keep)

    @contextmanager
    def opened(self, *, is_forced: bool) -> Iterator[Answering]:
        """Without stop tokens instead of a least length: that would be looked at row by row in every step."""
        engine = Engine(
            self.adapter,
            self.subject.preprocessor,
            self.plan,
            stop_ids=frozenset() if is_forced else self.subject.stop_ids,
            options=self.options,
        )
        with engine:
            yield lambda records, most: self._answer(engine, records, most)

    def _answer(self, engine: Engine, records: Sequence[Record], most: int) -> Pass:
        before, start = engine.stats(), time.perf_counter()
        answers = engine.answer(records, decoding=Decoding(max_new_tokens=most))
        synchronise(self.subject.device)
        seconds, stats = time.perf_counter() - start, engine.stats() - before
        texts = tuple(map(_text, answers))
        stops = self.subject.stop_ids
        return Pass(
            seconds=seconds,
            outputs=tuple(_without_last_stop(answer, stops) for answer in answers),
            texts=texts,
            stage_seconds=_stages(stats),
            layer_tokens=stats.layer_tokens / stats.row_layers,
            padding=stats.padding_tokens / max(1, stats.padded_tokens),
            occupancy=stats.decode_rows / max(1, stats.decode_slots),
            rows_per_step=stats.decode_rows / max(1, stats.decode_steps),
            shared_tokens=stats.shared_tokens / len(records),
        )


def _text(answer: Answer) -> str:
    if answer.text is None:
        raise StarBatchError(f"{answer.id} was not answered: {answer.error}")
    return answer.text


def _without_last_stop(answer: Answer, stops: frozenset[int]) -> tuple[int, ...]:
    ids = answer.token_ids
    return ids[:-1] if answer.finish_reason == "stop" and ids and ids[-1] in stops else ids


def _stages(stats: EngineStats) -> dict[str, float]:
    return {
        "vision": stats.vision_seconds,
        "select": stats.select_seconds,
        "prefill": stats.prefill_seconds,
        "decode": stats.decode_seconds,
    }
