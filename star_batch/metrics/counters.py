"""What an engine counts and shows while it runs: counters, histograms, and readings of this moment.

Plain data that adds up, over time and over engines. Knows no clock, no row and no exporter.
"""

from bisect import bisect_left
from dataclasses import dataclass, field, fields, replace
from itertools import zip_longest
from operator import add, sub
from typing import Literal, TypeAlias


@dataclass(slots=True)
class EngineStats:
    """What one engine has done so far. Every field adds up, over time and over engines.

    Seconds are wall time spent in a stage; `decode_image_seconds` only where the engine itself decodes.
    `vision_images` went through the encoder: fewer than rows where rows share an image.
    `visual_tokens` are offered by images, `early_tokens` kept by the early stage and `late_tokens` by the
    last late one. `prompt_tokens` are the prompts' text, `prefill_tokens` all tokens that enter the
    language model: text and what the early stage kept; `shared_tokens` of them came with keys and values that
    other rows' tokens had made, and were not run again. `layer_tokens` adds up the *visual* tokens that
    each decoder layer sees in prefill, over layers and rows, and `row_layers` the layers that each row
    went through, so that their quotient is the layer-mean visual length whatever models are summed.
    `decode_slots` adds up the slots that were open at each decode step and `decode_rows` those that
    held a row; `padded_tokens` adds up the key positions that decode attention read, and
    `padding_tokens` those of them that held nothing.
    """

    rows_answered: int = 0
    rows_failed: int = 0
    visual_tokens: int = 0
    early_tokens: int = 0
    late_tokens: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    vision_batches: int = 0
    vision_images: int = 0
    prefill_batches: int = 0
    prefill_rows: int = 0
    prefill_tokens: int = 0
    shared_tokens: int = 0
    layer_tokens: int = 0
    row_layers: int = 0
    decode_steps: int = 0
    decode_rows: int = 0
    decode_slots: int = 0
    padded_tokens: int = 0
    padding_tokens: int = 0
    decode_image_seconds: float = 0.0
    vision_seconds: float = 0.0
    select_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    def __add__(self, other: "EngineStats") -> "EngineStats":
        return EngineStats(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __sub__(self, other: "EngineStats") -> "EngineStats":
        return EngineStats(**{f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(self)})


@dataclass(slots=True)
class Histogram:
    """Values counted by size: `counts[i]` of them are above `bounds[i - 1]` and not above `bounds[i]`, the last ones
    above all bounds; `total` is their sum. Adds up, over time and over engines."""

    bounds: tuple[float, ...]
    counts: list[int]
    total: float = 0.0

    @classmethod
    def over(cls, bounds: tuple[float, ...]) -> "Histogram":
        return cls(bounds, [0] * (len(bounds) + 1))

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def __add__(self, other: "Histogram") -> "Histogram":
        return Histogram(self.bounds, list(map(add, self.counts, other.counts)), self.total + other.total)

    def __sub__(self, other: "Histogram") -> "Histogram":
        return Histogram(self.bounds, list(map(sub, self.counts, other.counts)), self.total - other.total)


Phase: TypeAlias = Literal["prefill", "decode"]

BATCH_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def _by_phase(bounds: tuple[float, ...]) -> dict[Phase, Histogram]:
    return {"prefill": Histogram.over(bounds), "decode": Histogram.over(bounds)}


@dataclass(slots=True, kw_only=True)
class Readings:
    """What an engine shows beside its counters. Adds up over engines.

    At this moment: `rows_waiting` were handed in and have not begun, `rows_running` hold a decode slot, and
    `pages_in_use` of the `pages` of the KV cache are taken, one number per layer group.
    Since the start: `idle_seconds` in which there was nothing to do, for each step of a phase the rows in it and the
    seconds it took, and the visual tokens kept in each layer group: `kept_tokens`, after the early stage and after each
    late one.
    """

    rows_waiting: int = 0
    rows_running: int = 0
    pages_in_use: tuple[int, ...] = ()
    pages: tuple[int, ...] = ()
    idle_seconds: float = 0.0
    kept_tokens: tuple[int, ...] = ()
    batch_rows: dict[Phase, Histogram] = field(default_factory=lambda: _by_phase(BATCH_ROWS))
    step_seconds: dict[Phase, Histogram] = field(default_factory=lambda: _by_phase(STEP_SECONDS))

    def observe(self, phase: Phase, *, rows: int, seconds: float) -> None:
        """A step was run."""
        self.batch_rows[phase].observe(rows)
        self.step_seconds[phase].observe(seconds)

    def keep(self, counts: tuple[int, ...]) -> None:
        """A row was prefilled, with so many visual tokens in each layer group."""
        self.kept_tokens = _added(self.kept_tokens, counts)

    def at_the_end(self) -> "Readings":
        """What is left of it when its engine is gone: nothing waits and nothing is held."""
        return replace(self, rows_waiting=0, rows_running=0, pages_in_use=(), pages=())

    def __add__(self, other: "Readings") -> "Readings":
        return Readings(
            rows_waiting=self.rows_waiting + other.rows_waiting,
            rows_running=self.rows_running + other.rows_running,
            pages_in_use=_added(self.pages_in_use, other.pages_in_use),
            pages=_added(self.pages, other.pages),
            idle_seconds=self.idle_seconds + other.idle_seconds,
            kept_tokens=_added(self.kept_tokens, other.kept_tokens),
            batch_rows={phase: rows + other.batch_rows[phase] for phase, rows in self.batch_rows.items()},
            step_seconds={phase: times + other.step_seconds[phase] for phase, times in self.step_seconds.items()},
        )


def _added(some: tuple[int, ...], others: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(sum, zip_longest(some, others, fillvalue=0)))
