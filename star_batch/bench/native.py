"""Mixed shapes through the real engine: a tiny model at native resolution, under three ways to make batches.

Images of many sizes and aspect ratios, questions and answers of many lengths. One engine after the other answers the
same requests in the same run; what differs is who is prefilled with whom, and when. The weights are random: what
counts is how full batches are, and how many rows come out of a second.
"""

import math
import random
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen2VLImageProcessorPil

from star_batch.bench.mix import Length, Tally, TimedOutcome, make_mix
from star_batch.bench.subject import BOS, EOS, IMAGE, PAD, TEMPLATE, UNK, WORDS, random_model, word_tokenizer
from star_batch.engine import Engine
from star_batch.engine.attention import ATTENTION
from star_batch.engine.scheduler import Batch, Budget, Scheduler
from star_batch.engine.sequence import Sequence as Row
from star_batch.engine.threads import on_passing_thread
from star_batch.models import Preprocessor
from star_batch.models.qwen_vl import Qwen2_5VL
from star_batch.options import EngineOptions
from star_batch.pruning import Pruning, make_plan
from star_batch.records import Picture, Record

_PATCH, _MERGE = 14, 2
_SIDES = (84, 420)  # pixels of an image with sides alike
_MOST_ASPECT = 4.0
_LONGEST = 1024
_WARM_UP_ROWS = 8


class _Tallied(Scheduler):
    """The engine's own scheduler, counted: rows of like length together, slots refilled."""

    name: ClassVar[str] = "like lengths, slots refilled"

    def __init__(self, budget: Budget) -> None:
        super().__init__(budget)
        self.tally = Tally(budget.max_rows)

    @classmethod
    def arranged(cls, requests: Sequence[Record], model: Qwen2_5VL, preprocessor: Preprocessor) -> Sequence[Record]:
        """The requests in the order in which they are handed in."""
        return requests

    def schedule(self) -> Batch | None:
        batch = super().schedule()
        if batch is not None and batch.phase == "prefill":
            self.tally.prefill([row.length for row in batch.sequences])
        elif batch is not None:
            contexts = [row.cached(0) + 1 for row in batch.sequences]
            self.tally.decode(contexts, self._num_computed(batch), max(contexts))
        return batch

    def _num_computed(self, batch: Batch) -> int:
        return len(batch.sequences)


class _ArrivalOrder(_Tallied):
    """Whoever came first, whatever its length; slots refilled."""

    name: ClassVar[str] = "arrival order, slots refilled"

    def _candidates(self) -> list[Row]:
        return list(self.waiting)


class _Static(_ArrivalOrder):
    """Fixed batches of like rows: nobody comes in before all of a batch are done.

    Rows that are done are not computed any more, which is more than most static batches can say.
    """

    name: ClassVar[str] = "static batches of sorted rows"

    def __init__(self, budget: Budget) -> None:
        super().__init__(budget)
        self._batch_size = 0

    @classmethod
    def arranged(cls, requests: Sequence[Record], model: Qwen2_5VL, preprocessor: Preprocessor) -> Sequence[Record]:
        def length(record: Record) -> int:
            assert isinstance(record.image, Picture)
            return model.layout(record.image).num_visual + preprocessor.prompt(record.prompt).num_tokens

        return sorted(requests, key=length)

    def schedule(self) -> Batch | None:
        batch = super().schedule()
        if batch is not None and batch.phase == "prefill":
            self._batch_size = len(batch.sequences)
        return batch

    @property
    def _should_refill(self) -> bool:
        return bool(self.waiting) and not self.running

    def _num_computed(self, batch: Batch) -> int:
        return self._batch_size


POLICIES = (_Tallied, _ArrivalOrder, _Static)


def compare_natively(num_requests: int, slots: int, seed: int = 0) -> list[TimedOutcome]:
    """The same requests under every policy, one after the other, each with an engine of its own."""
    model, preprocessor = on_passing_thread(lambda: _subject(seed))
    requests = _requests(make_mix(num_requests, seed), preprocessor, seed)
    return [_measure(policy, model, preprocessor, requests, slots) for policy in POLICIES]


def _measure(
    policy: type[_Tallied], model: Qwen2_5VL, preprocessor: Preprocessor, requests: Sequence[Record], slots: int
) -> TimedOutcome:
    schedulers: list[_Tallied] = []

    def scheduler(budget: Budget) -> Scheduler:
        schedulers.append(policy(budget))
        return schedulers[-1]

    plan = make_plan(Pruning(), model.num_layers, model.layout(preprocessor.typical).num_visual, model.num_axes)
    options = EngineOptions(max_rows=slots, max_prefill_tokens=slots * _LONGEST)
    with Engine(model, preprocessor, plan, stop_ids=frozenset((EOS,)), options=options, scheduler=scheduler) as engine:
        engine.answer(requests[:_WARM_UP_ROWS])
        schedulers[0].tally = Tally(slots)
        start = time.perf_counter()
        engine.submit(policy.arranged(requests, model, preprocessor)).result()
        seconds = time.perf_counter() - start
    return TimedOutcome(batches=schedulers[0].tally.outcome(policy.name), rows_per_second=len(requests) / seconds)


def _requests(lengths: Sequence[Length], preprocessor: Preprocessor, seed: int) -> list[Record]:
    """Prompts and answers of the mix's lengths; images log-uniform in area and in aspect ratio."""
    source, pixels = random.Random(seed), np.random.default_rng(seed)
    return [
        Record(
            id=f"r{number}",
            image=_picture(source, pixels),
            prompt=" ".join(source.choices(WORDS, k=length.prompt)),
            max_new_tokens=length.answer,
            min_new_tokens=length.answer,
        )
        for number, length in enumerate(lengths)
    ]


def _picture(source: random.Random, pixels: np.random.Generator) -> Picture:
    """Noise whose sides are whole tokens, as the preprocessor would leave it."""
    side = math.exp(source.uniform(*map(math.log, _SIDES)))
    stretch = _MOST_ASPECT ** source.uniform(-0.5, 0.5)
    unit = _PATCH * _MERGE
    height, width = (max(1, round(length / unit)) * unit for length in (side * stretch, side / stretch))
    return Picture(pixels.integers(0, 256, (1, height, width, 3), dtype=np.uint8), (height, width))


def _subject(seed: int) -> tuple[Qwen2_5VL, Preprocessor]:
    """A Qwen2.5-VL of random weights, small enough for any laptop."""
    images = Qwen2VLImageProcessorPil(patch_size=_PATCH, merge_size=_MERGE)
    preprocessor = Preprocessor(
        tokenizer=word_tokenizer(len(WORDS) + 16), images=images, image_token="<image>", template=TEMPLATE
    )
    model: Any = random_model(_config(), torch.float32, torch.device("cpu"), seed)
    model.set_attn_implementation(Qwen2_5VL.attentions(ATTENTION))
    return Qwen2_5VL(model, preprocessor.normalisation), preprocessor


def _config() -> Qwen2_5_VLConfig:
    vision = {"depth": 4, "hidden_size": 64, "num_heads": 4, "intermediate_size": 128, "out_hidden_size": 128}
    text = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen2_5_VLConfig(
        vision_config=vision | {"patch_size": _PATCH, "spatial_merge_size": _MERGE, "fullatt_block_indexes": [1, 3]},
        text_config=text
        | {"intermediate_size": 256, "vocab_size": len(WORDS) + 16, "max_position_embeddings": 2 * _LONGEST}
        | {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
        | {"rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6]}},
        image_token_id=IMAGE,
        video_token_id=UNK,
        vision_start_token_id=UNK,
        vision_end_token_id=UNK,
    )
