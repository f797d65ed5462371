"""One record on its way through the engine, carrying its own state. Knows no model and no neighbour.

A sequence is `before | visual | after | output`. Its length differs between layer groups, because a
late step leaves the later layers fewer visual tokens; everything else about it is the same in each.
"""

import hashlib
import time
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from star_batch.engine.choices import ChoiceSearch
from star_batch.errors import RecordError
from star_batch.models import Prompt
from star_batch.options import Positions
from star_batch.records import FinishReason, Pixels, Times


def digest(data: bytes | memoryview) -> bytes:
    """16 bytes that stand for the data."""
    return hashlib.blake2b(data, digest_size=16).digest()


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

    Shared by the rows that ask about the same image; gone when the last of them is prefilled.
    """

    kept: Tensor
    visual: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How one answer is decoded and when it ends."""

    max_new_tokens: int
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(kw_only=True, eq=False)
class Sequence:
    """State of one record between submission and answer.

    `counts` visual tokens per layer group; `pages` KV pages per layer group while it runs;
    `pixels` until the image is encoded, then `image` until it is prefilled; rows of equal `image_key`
    have the same image; `kept` visual tokens per layer group, as indices on the host, if the record wants to know;
    `search` among its choices, if it has any, and the `label` and `probabilities` it ended with.
    """

    id: str
    prompt: Prompt
    pixels: Pixels | None
    num_visual: int
    counts: tuple[int, ...]
    limits: Limits
    clock: Clock = field(default_factory=Clock)
    image: EncodedImage | None = None
    image_key: bytes = b""
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
        return int.from_bytes(digest(self.id.encode())[:7])

    @property
    def encoded(self) -> EncodedImage:
        """Its image, between encoding and prefill."""
        assert self.image is not None, "not encoded yet, or prefilled already"
        return self.image

    @property
    def length(self) -> int:
        """Post-pruning length: tokens that enter the language model."""
        return self.prompt.num_tokens + self.counts[0]

    @property
    def capacities(self) -> tuple[int, ...]:
        """Most tokens that each layer group will ever hold for it; the last token is never written."""
        fixed = self.prompt.num_tokens + self.limits.max_new_tokens - 1
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
        """Rotary position of its latest token: counted on from the unpruned length, unless compact."""
        if positions == "compact":
            return self.cached(group)
        return self.prompt.num_tokens + self.num_visual + len(self.output) - 1
