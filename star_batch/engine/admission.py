"""From a record to a sequence that is ready to run: images as pictures, prompt as ids, lengths known. Runs no model."""

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain, pairwise

import numpy as np

from star_batch import images
from star_batch.engine.choices import ChoiceSearch
from star_batch.engine.scheduler import Budget
from star_batch.engine.sequence import SamplingParameters, Sequence, SequenceImage, digest, seed_of
from star_batch.errors import (
    ConfigError,
    ImageMissing,
    PromptInvalid,
    PromptTooLong,
    RecordError,
    RowTooLarge,
    ValueInvalid,
)
from star_batch.metrics import EngineStats
from star_batch.models import Preprocessor, Prompt, VisionLanguageModel
from star_batch.options import Decoding, is_count
from star_batch.pruning import PruningPlan
from star_batch.records import ImageSource, Picture, Record
from star_batch.wording import quoted

_CHARACTERS_PER_TOKEN = 200  # more than any tokenizer packs into one


class Admission:
    """Checks a record against the model's context and the engine's memory while it is still one row's problem."""

    def __init__(
        self,
        model: VisionLanguageModel,
        preprocessor: Preprocessor,
        plan: PruningPlan,
        budget: Budget,
        *,
        can_stop: bool,
        repetition_penalty: float,
    ) -> None:
        self._model = model
        self._preprocessor = preprocessor
        self._plan = plan
        self._budget = budget
        self._can_stop = can_stop
        self._repetition_penalty = repetition_penalty
        self._lock = threading.Lock()
        self._stats = EngineStats()

    def admit(self, record: Record, decoding: Decoding) -> Sequence:
        """A record made ready. Safe to call from any thread.

        Raises:
            RecordError: this record cannot be answered; the message says why.
        """
        try:
            return self._sequence(record, decoding)
        except RecordError:
            self._count(EngineStats(rows_failed=1))
            raise

    def stats(self) -> EngineStats:
        """Rows refused here and seconds spent on decoding images."""
        with self._lock:
            return self._stats

    def _sequence(self, record: Record, decoding: Decoding) -> Sequence:
        check_record(record)
        sampling = self._sampling(record, decoding)
        prompt = self._prompt(record)
        pictures = [self._picture(source) for source in record.images]
        images = tuple(self._image(record, prompt, index, picture) for index, picture in enumerate(pictures))
        per_image = [self._plan.counts(image.layout.num_visual) for image in images]
        sequence = Sequence(
            id=record.id,
            prompt=prompt,
            num_visual=sum(image.layout.num_visual for image in images),
            counts=tuple(map(sum, zip(*per_image, strict=True))),
            sampling=sampling,
            kept=[] if record.with_kept else None,
            images=images,
        )
        if record.choices is not None:
            self._restrict(sequence, record.choices)
        self._check_size(sequence)
        return sequence

    def _sampling(self, record: Record, decoding: Decoding) -> SamplingParameters:
        """With what the checkpoint says where the job says nothing, and stop strings that are special tokens as ids."""
        parameters = _sampling_parameters(record, decoding, self._repetition_penalty)
        if not parameters.stop:
            return parameters
        ids = {text: self._preprocessor.stop_id(text) for text in parameters.stop}
        return replace(
            parameters,
            stop=tuple(text for text, id in ids.items() if id is None),
            stop_ids=frozenset(id for id in ids.values() if id is not None),
        )

    def _prompt(self, record: Record) -> Prompt:
        longest = _CHARACTERS_PER_TOKEN * self._model.context_length
        length = len(record.prompt or "") + len(record.system or "")
        if length > longest:  # before minutes are spent on tokenizing it
            raise PromptTooLong(f"the prompt has {length} characters; the model's context is far smaller")
        return self._preprocessor.prompt(
            record.prompt, num_images=len(record.images), raw=record.raw, system=record.system
        )

    def _picture(self, source: ImageSource | None) -> Picture:
        if isinstance(source, Picture):
            return source
        start = time.perf_counter()
        picture = self._preprocessor.picture(images.decode(source))
        self._count(EngineStats(decode_image_seconds=time.perf_counter() - start))
        return picture

    def _image(self, record: Record, prompt: Prompt, index: int, picture: Picture) -> SequenceImage:
        layout = self._model.layout(picture)
        views = np.ascontiguousarray(picture.views)
        of_whom = f"{record.id}#{index}" if self._plan.is_per_record else ""
        words = tuple(chain.from_iterable(prompt.texts[index + 1 :])) if self._plan.reads_prompt else ()
        return SequenceImage(
            key=digest(views.data) + digest(f"{views.shape}{picture.size}{of_whom}{words or ''}".encode()),
            seed=seed_of(record.id) + index,
            words=words,
            layout=layout,
            picture=replace(picture, views=views),
        )

    def _restrict(self, sequence: Sequence, choices: tuple[str, ...]) -> None:
        token_ids = {choice: self._preprocessor.answer_ids(choice) for choice in choices}
        check_choices(token_ids, can_stop=self._can_stop)
        sequence.search = ChoiceSearch(token_ids)
        longest = max(map(len, token_ids.values()))
        sequence.sampling = replace(sequence.sampling, max_new_tokens=longest + 1)

    def _check_size(self, sequence: Sequence) -> None:
        needed = sequence.prompt.num_tokens + sequence.num_visual + sequence.sampling.max_new_tokens
        if needed > self._model.context_length:
            context = self._model.context_length
            raise PromptTooLong(f"prompt, image and answer need {needed} positions; the model has {context}")
        if not self._budget.admits(sequence):
            raise RowTooLarge("the row alone needs more KV cache than there is; raise kv_memory_gib or prune more")

    def _count(self, more: EngineStats) -> None:
        with self._lock:
            self._stats += more


def check_record(record: Record) -> None:
    """Types and encodings that a table or a caller may get wrong; later stages rely on them.

    Raises:
        ImageMissing, ValueInvalid, PromptInvalid: a value is not what `Record` says.
    """
    if not _is_text(record.id):
        raise ValueInvalid(f"id={quoted(record.id)}: give text")
    if not record.images:
        raise ImageMissing("no image")
    if record.prompt is not None and not _is_text(record.prompt):
        raise PromptInvalid(f"the prompt is {type(record.prompt).__name__} or not valid Unicode; give text")
    for name in ("choices", "stop"):
        values = getattr(record, name)
        is_list = isinstance(values, tuple | list) and all(_is_text(value) and value for value in values)
        if values is not None and not is_list:
            raise ValueInvalid(f"{name}={quoted(values)}: give a list of texts, none of them empty")


def check_choices(token_ids: Mapping[str, tuple[int, ...]], *, can_stop: bool) -> None:
    """Raises:
    ValueInvalid: there is nothing to choose from, or two choices cannot be told apart.
    """
    if not token_ids or not all(token_ids.values()):
        raise ValueInvalid("choices: give at least one, and none of them blank")
    ordered = sorted(token_ids, key=lambda choice: token_ids[choice])
    for first, second in pairwise(ordered):
        shorter, longer = token_ids[first], token_ids[second]
        if shorter == longer:
            raise ValueInvalid(f"choices {quoted(first)} and {quoted(second)} are the same tokens")
        if longer[: len(shorter)] == shorter and not can_stop:
            raise ValueInvalid(
                f"choice {quoted(second)} goes on from {quoted(first)}, and the model has no token to stop at"
            )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _sampling_parameters(record: Record, decoding: Decoding, own_penalty: float) -> SamplingParameters:
    """The job's decoding with the record's own overrides."""
    own = {name: getattr(record, name) for name in ("max_new_tokens", "temperature", "top_p", "seed")}
    try:
        chosen = replace(decoding, **{name: value for name, value in own.items() if value is not None})
    except ConfigError as error:
        raise ValueInvalid(str(error)) from None
    least = record.min_new_tokens
    if not (least == 0 or is_count(least)) or least > chosen.max_new_tokens:
        raise ValueInvalid(f"min_new_tokens={quoted(least)}: give a whole number from 0 to {chosen.max_new_tokens}")
    return SamplingParameters(
        max_new_tokens=int(chosen.max_new_tokens),
        min_new_tokens=int(least),
        temperature=chosen.temperature,
        top_p=chosen.top_p,
        seed=chosen.seed,
        repetition_penalty=own_penalty if chosen.repetition_penalty is None else chosen.repetition_penalty,
        stop=(*chosen.stop, *record.stop),
    )
