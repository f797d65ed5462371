"""Methods side by side on the same held-out rows, at equal cost: accuracy and speed. Prints nothing.

Cost is the mean over decoder layers of the visual tokens that a layer sees. Each engine runs alone in
this process, without Ray, so that nothing but the pruning differs.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from star_batch.demo.methods import Asked
from star_batch.demo.rows import make_rows
from star_batch.errors import ConfigError
from star_batch.metrics import EngineStats
from star_batch.options import Decoding, Dtype
from star_batch.pruning import CONTROLS, Pruning
from star_batch.records import Answer, Record, matches

SEED = 7
_WARM_UP_ROWS = 64
_CLEAR = 2
"""Standard errors beyond which a difference is marked."""
FEWEST_DIFFERING = 6
"""Fewer pairs that differ all fall on one side by chance more than once in twenty: 2 / 2**5."""


class Answering(Protocol):
    """What is measured of an engine."""

    def answer(self, records: Iterable[Record], *, decoding: Decoding) -> list[Answer]: ...
    def stats(self) -> EngineStats: ...


class Gain(NamedTuple):
    """A difference in accuracy on the same rows, and its standard error; both are shares.

    `differing`: rows that only one of the two answered right.
    """

    difference: float
    error: float
    differing: int

    @property
    def is_clear(self) -> bool:
        """Beyond two standard errors, of enough rows: by chance alone, about one in twenty is."""
        return self.differing >= FEWEST_DIFFERING and abs(self.difference) > _CLEAR * self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one engine made of all rows; `seconds` run from encoded images to answers."""

    pruning: Pruning
    is_correct: tuple[bool, ...]
    layer_tokens: float
    seconds: float

    @property
    def as_fixed(self) -> Pruning:
        """The same method with one budget for all images: the mean that was measured, rounded up in its favour."""
        return replace(self.pruning, keep=math.ceil(self.layer_tokens), keep_mass=None)

    @property
    def images_per_second(self) -> float:
        return len(self.is_correct) / self.seconds

    @property
    def accuracy(self) -> float:
        return sum(self.is_correct) / len(self.is_correct)

    @property
    def standard_error(self) -> float:
        """Of the accuracy, with the rows as a sample of all questions."""
        return standard_error(self.accuracy, len(self.is_correct))

    def gain_over(self, other: "Measured") -> Gain:
        """Difference in accuracy and its standard error, row by row: the rows are the same."""
        pairs = zip(self.is_correct, other.is_correct, strict=True)
        differences = [mine - theirs for mine, theirs in pairs]
        mean = sum(differences) / len(differences)
        variance = sum((difference - mean) ** 2 for difference in differences) / len(differences)
        return Gain(mean, math.sqrt(variance / len(differences)), sum(map(abs, differences)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One method at one budget: what was measured, or in `refused` why it cannot be had on this model.

    The gains are over `none` and over `random` at the same budget; None of the controls that they are over.
    """

    label: str
    keep: int | float | None = None
    measured: Measured | None = None
    refused: str | None = None
    over_none: Gain | None = None
    over_random: Gain | None = None


Measure = Callable[[Asked, Pruning], Measured]

_NONE, _RANDOM, _STRIDE = (Asked(label=name, method=name) for name in CONTROLS)


def num_lines(asked: Sequence[Asked], keeps: Sequence[int | float]) -> int:
    """How many lines `compare` makes."""
    return 1 + len(keeps) * (2 + len(asked))


def compare(asked: Sequence[Asked], keeps: Sequence[int | float], measure: Measure) -> Iterator[Line]:
    """`none`, then budget by budget `random`, `stride` and what was asked for, a line as soon as it is measured.

    Raises:
        ConfigError: not even `none` can be measured.
    """
    none = measure(_NONE, Pruning())
    yield Line(label=_NONE.label, measured=none)
    for keep in keeps:
        random = _line(_RANDOM, keep, measure, none, None)
        yield random
        for each in (_STRIDE, *asked):
            yield _line(each, keep, measure, none, random.measured)


def _line(asked: Asked, keep: int | float, measure: Measure, none: Measured, random: Measured | None) -> Line:
    try:
        measured = measure(asked, asked.pruning(keep=keep))
    except ConfigError as error:
        return Line(label=asked.label, keep=keep, refused=str(error))
    return Line(
        label=asked.label,
        keep=keep,
        measured=measured,
        over_none=measured.gain_over(none),
        over_random=None if random is None else measured.gain_over(random),
    )


def standard_error(accuracy: float, num_rows: int) -> float:
    """Of a share that was found in `num_rows` independent rows."""
    return math.sqrt(accuracy * (1 - accuracy) / num_rows)


def held_out(num_rows: int) -> list[dict[str, Any]]:
    """The rows on which everything is measured; none of them broken."""
    return list(make_rows(num_rows, SEED))


def measure(
    pruning: Pruning, rows: Sequence[dict[str, Any]], *, device: str = "auto", dtype: Dtype = "auto"
) -> Measured:
    """Load an engine, warm it up, and answer all rows.

    Raises:
        ModelError: the demo checkpoint cannot be loaded.
        ConfigError: the pruning does not fit the demo model.
    """
    # Here, so that whoever only shows results does not load torch.
    from star_batch.engine import Engine

    with Engine.from_pretrained("demo", pruning=pruning, device=device, dtype=dtype) as engine:
        return _measure(engine, pruning, rows)


def _measure(engine: Answering, pruning: Pruning, rows: Sequence[dict[str, Any]]) -> Measured:
    records = [Record(id=row["id"], image=row["image"], prompt=row["question"]) for row in rows]
    decoding = Decoding(max_new_tokens=32)
    engine.answer(records[:_WARM_UP_ROWS], decoding=decoding)
    before, start = engine.stats(), time.perf_counter()
    answers = engine.answer(records, decoding=decoding)
    seconds, done = time.perf_counter() - start, engine.stats() - before
    pairs = zip(answers, rows, strict=True)
    return Measured(
        pruning=pruning,
        is_correct=tuple(matches(answer.text, row["answer"]) for answer, row in pairs),
        layer_tokens=done.layer_tokens / max(1, done.row_layers),
        seconds=seconds,
    )
