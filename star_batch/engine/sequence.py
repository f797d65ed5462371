"""One record on its way through the engine, carrying its own state. Knows no model and no neighbour.

A sequence is its prompt's texts with an image between each two, then the output. Its length differs between
layer groups, because a late step leaves the later layers fewer visual tokens; everything else is the same in each.
"""

import hashlib
import time
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from star_batch.engine.choices import ChoiceSearch
from star_batch.errors import RecordError
from star_batch.models import ImageLayout, Prompt
from star_batch.options import Positions
from star_batch.records import FinishReason, Picture, Times


def digest(data: bytes | memoryview) -> bytes:
    """16 bytes that stand for the data."""
    return hashlib.blake2b(data, digest_size=16).digest()


def seed_of(id: str) -> int:
    """A number for a record's id."""
    return int.from_bytes(digest(id.encode())[:7])


@dataclass(slots=True, kw_only=True)
class Clock:
    """When a sequence passed each gate, in seconds of `time.perf_counter`."""

    submitted: float = field(default_factory=time.perf_counter)
    vision: float = 0.0
    prefill_start: float = 0.0
    decode_start: float = 0.0
    finished: float = 0.0

    def times(self) -> Times:
        return Times(
            waiting=max(0.0, self.prefill_start - self.submitted - self.vision),
            vision=self.vision,
            prefill=self.decode_start - self.prefill_start,
            decode=self.finished - self.decode_start,
        )


@dataclass(slots=True, eq=False, weakref_slot=True)
class EncodedImage:
    """What the decoder sees of an image: early survivors `kept [K]`, on the host, and their embeddings `visual [K, W]`.

    `counts` visual tokens of it per layer group. Shared by the rows that ask about the same image; gone when the
    last of them is prefilled.
    """

    kept: Tensor
    visual: Tensor
    counts: tuple[int, ...]


@dataclass(slots=True, kw_only=True, eq=False)
class SequenceImage:
    """An image of a sequence: its `picture` until it is encoded, then `encoded` until it is prefilled.

    Images of equal `key` are the same; `seed` belongs to the record. `words` are the prompt's after the image, where
    the selection reads them.
    """

    key: bytes
    seed: int
    words: tuple[int, ...] = ()
    layout: ImageLayout
    picture: Picture | None
    encoded: EncodedImage | None = None

    @property
    def source(self) -> Picture:
        """The picture that is to be encoded."""
        assert self.picture is not None, "encoded already"
        return self.picture

    @property
    def survivors(self) -> EncodedImage:
        """What is left of it, between encoding and prefill."""
        assert self.encoded is not None, "not encoded yet, or prefilled already"
        return self.encoded


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParameters:
    """How one answer is decoded and when it ends. `stop_ids` are its own, beside the model's."""

    max_new_tokens: int
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()


@dataclass(kw_only=True, eq=False)
class Sequence:
    """State of one record between submission and answer.

    `counts` visual tokens per layer group, of all its images: before they are encoded, the most there may be;
    `pages` KV pages per layer group while it runs;
    `kept` visual tokens per layer group, as indices on the host, if the record wants to know;
    `search` among its choices, if it has any, and the `label` and `probabilities` it ended with.
    """

    id: str
    prompt: Prompt
    num_visual: int
    counts: tuple[int, ...]
    sampling: SamplingParameters
    images: tuple[SequenceImage, ...] = ()
    clock: Clock = field(default_factory=Clock)
    kept: list[Tensor] | None = None
    error: RecordError | None = None
    pages: tuple[list[int], ...] = ()
    output: list[int] = field(default_factory=list)
    search: ChoiceSearch | None = None
    label: str | None = None
    probabilities: dict[str, float] | None = None
    text: str | None = None
    finish_reason: FinishReason | None = None

    @cached_property
    def seed(self) -> int:
        """A number that belongs to the record's id: the same in every run and on every machine."""
        return seed_of(self.id)

    @cached_property
    def num_positions(self) -> int:
        """Positions that the prompt takes up unpruned: the first that is free for the answer."""
        return self.prompt.num_tokens + sum(image.layout.extent for image in self.images)

    @property
    def early_kept(self) -> Tensor:
        """Indices among the visual tokens of all its images of what the early stage kept."""
        parts, first = [], 0
        for image in self.images:
            parts.append(first + image.survivors.kept)
            first += image.layout.num_visual
        return torch.cat(parts)

    @property
    def length(self) -> int:
        """Post-pruning length: tokens that enter the language model."""
        return self.prompt.num_tokens + self.counts[0]

    @property
    def capacities(self) -> tuple[int, ...]:
        """Most tokens that each layer group will ever hold for it; the last token is never written."""
        fixed = self.prompt.num_tokens + self.sampling.max_new_tokens - 1
        return tuple(fixed + count for count in self.counts)

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None or self.error is not None

    def cached(self, group: int) -> int:
        """Tokens of it in the group's KV cache before the next decode step."""
        return self.prompt.num_tokens + self.counts[group] + len(self.output) - 1

    def note_kept(self, group: int, places: Tensor) -> None:
        """From layer group `group` on it sees only these places of what the group before it saw."""
        if self.kept is not None:
            seen = self.kept[group - 1][places] if group else places
            self.kept[group:] = [seen] * (len(self.counts) - group)

    def next_position(self, group: int, positions: Positions) -> int:
        """Rotary position of its latest token: counted on from the unpruned prompt, unless compact."""
        if positions == "compact":
            return self.cached(group)
        return self.num_positions + len(self.output) - 1
