"""From a record to a sequence that is ready to run: image as pixels, prompt as ids, lengths known. Runs nothing."""

from dataclasses import replace

import numpy as np

from star_batch import images
from star_batch.engine.choices import choice_trie
from star_batch.engine.scheduler import Budget
from star_batch.engine.sequence import Limits, Sequence, digest
from star_batch.errors import ImageUnreadable, PromptTooLong, RowTooLarge, ValueInvalid
from star_batch.models import Preprocessor, VisionLanguageModel
from star_batch.options import Decoding, is_count
from star_batch.pruning import PruningPlan
from star_batch.records import Pixels, Record


class Intake:
    """Checks a record against the model's context and the engine's memory while it is still one row's problem."""

    def __init__(
        self, model: VisionLanguageModel, preprocessor: Preprocessor, plan: PruningPlan, budget: Budget
    ) -> None:
        self._model = model
        self._preprocessor = preprocessor
        self._plan = plan
        self._budget = budget

    def sequence(self, record: Record, decoding: Decoding) -> Sequence:
        """Safe to call from any thread.

        Raises:
            RecordError: this record cannot be answered; the message says why.
        """
        limits = _limits(record, decoding)
        prompt = self._preprocessor.prompt(record.prompt, raw=record.raw)
        pixels = self._pixels(record)
        num_visual = self._model.num_visual(pixels.shape)
        sequence = Sequence(
            id=record.id,
            prompt=prompt,
            pixels=pixels,
            num_visual=num_visual,
            counts=self._plan.counts(num_visual),
            limits=limits,
            image_key=digest(pixels.data) + (record.id.encode() if self._plan.is_per_record else b""),
        )
        if record.choices is not None:
            self._restrict(sequence, record.choices)
        self._check_size(sequence)
        return sequence

    def _pixels(self, record: Record) -> Pixels:
        if not isinstance(record.image, np.ndarray):
            return self._preprocessor.pixels(images.decode(record.image))
        if record.image.shape != self._preprocessor.shape or record.image.dtype != np.uint8:
            expected = f"uint8 of shape {self._preprocessor.shape}"
            raise ImageUnreadable(f"pixels of shape {record.image.shape}, {record.image.dtype}: expected {expected}")
        return record.image

    def _restrict(self, sequence: Sequence, choices: tuple[str, ...]) -> None:
        token_ids = {choice: self._preprocessor.answer_ids(choice) for choice in choices}
        if not token_ids or not all(token_ids.values()):
            raise ValueInvalid("choices: give at least one, and none of them empty")
        sequence.choice = choice_trie(token_ids)
        sequence.limits = replace(sequence.limits, max_new_tokens=sequence.choice.depth + 1)

    def _check_size(self, sequence: Sequence) -> None:
        needed = sequence.prompt.num_tokens + sequence.num_visual + sequence.limits.max_new_tokens
        if needed > self._model.context_length:
            context = self._model.context_length
            raise PromptTooLong(f"prompt, image and answer need {needed} positions; the model has {context}")
        if not self._budget.admits(sequence):
            raise RowTooLarge("the row alone needs more KV cache than there is; raise kv_memory_gib or prune more")


def _limits(record: Record, decoding: Decoding) -> Limits:
    """The job's decoding with the record's own overrides."""
    most = record.max_new_tokens if record.max_new_tokens is not None else decoding.max_new_tokens
    least = record.min_new_tokens
    if not is_count(most):
        raise ValueInvalid(f"max_new_tokens={most!r}: give a whole number of 1 or more")
    if not 0 <= least <= most:
        raise ValueInvalid(f"min_new_tokens={least!r}: give a whole number from 0 to max_new_tokens={most}")
    return Limits(
        max_new_tokens=most,
        min_new_tokens=least,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        seed=decoding.seed,
        stop=(*decoding.stop, *record.stop),
    )
