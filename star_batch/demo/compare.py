"""Methods side by side on the same held-out rows, at equal cost: accuracy and speed. Prints nothing.

Cost is the mean over decoder layers of the visual tokens that a layer sees. Each engine runs alone in
this process, without Ray, so that nothing but the pruning differs.
"""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from star_batch.demo.rows import make_rows
from star_batch.metrics import EngineStats
from star_batch.options import Decoding, Dtype
from star_batch.pruning import Pruning
from star_batch.records import Answer, Record, matches

KEEPS = (72, 36, 18)
SEED = 7
_WARM_UP_ROWS = 64


class Answering(Protocol):
    """What is measured of an engine."""

    def answer(self, records: Iterable[Record], *, decoding: Decoding) -> list[Answer]: ...
    def stats(self) -> EngineStats: ...


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
        return math.sqrt(self.accuracy * (1 - self.accuracy) / len(self.is_correct))

    def gain_over(self, other: "Measured") -> tuple[float, float]:
        """Difference in accuracy and its standard error, row by row: the rows are the same."""
        pairs = zip(self.is_correct, other.is_correct, strict=True)
        differences = [mine - theirs for mine, theirs in pairs]
        mean = sum(differences) / len(differences)
        variance = sum((difference - mean) ** 2 for difference in differences) / len(differences)
        return mean, math.sqrt(variance / len(differences))


def settings(keeps: Sequence[int | float] = KEEPS) -> list[Pruning]:
    """Everything that is compared; `none` comes first, as the others are measured against it."""
    return [Pruning(), *(pruning for keep in keeps for pruning in _at(keep))]


def settings_of_mass(mass: float) -> list[Pruning]:
    """The methods that score tokens early, with budgets that follow the image."""
    return [Pruning(method=method, keep_mass=mass) for method in ("vispruner", "star")]


def _at(keep: int | float) -> tuple[Pruning, ...]:
    return (
        Pruning(method="random", keep=keep),
        Pruning(method="stride", keep=keep),
        Pruning(method="vispruner", keep=keep),
        Pruning(method="star", keep=keep),
        Pruning(method="star", keep=keep, early_scores="features"),
    )


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
