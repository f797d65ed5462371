"""A comparison as files: JSON, CSV and a picture. Measures nothing."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from star_batch.demo.compare import Gain, Line, Measured, standard_error
from star_batch.demo.picture import picture
from star_batch.errors import OutputError
from star_batch.storage.results import make_ready

NAMES = ("compare.json", "compare.csv", "compare.svg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Lines over the same rows, of which `kinds` says what is asked in each; `about` says with what and when."""

    lines: tuple[Line, ...]
    kinds: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; accuracies and their differences are shares."""
        return {"about": self.about, "lines": [_as_dict(line, self.kinds) for line in self.lines]}


def write_comparison(folder: Path, comparison: Comparison) -> list[Path]:
    """`compare.json`, `compare.csv` and `compare.svg`.

    Raises:
        OutputError: the folder cannot be written.
    """
    make_ready(folder, NAMES)
    written = [folder / name for name in NAMES]
    try:
        written[0].write_text(json.dumps(comparison.as_dict(), indent=2) + "\n", encoding="utf-8")
        with written[1].open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(_table(comparison))
        written[2].write_text(picture(comparison.lines), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from None
    return written


def by_kind(is_correct: Sequence[bool], kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Questions, accuracy and its standard error for each kind of question, in alphabetical order."""
    pairs = list(zip(kinds, is_correct, strict=True))
    return {kind: _share([right for other, right in pairs if other == kind]) for kind in sorted(set(kinds))}


def _share(is_correct: Sequence[bool]) -> dict[str, Any]:
    number = len(is_correct)
    accuracy = sum(is_correct) / number
    return {"questions": number, "accuracy": accuracy, "standard_error": standard_error(accuracy, number)}


def _as_dict(line: Line, kinds: Sequence[str]) -> dict[str, Any]:
    about = {"method": line.label, "keep": line.keep}
    if line.measured is None:
        return about | {"refused": line.refused}
    gains = {"over_none": _gain(line.over_none), "over_random": _gain(line.over_random)}
    return about | _figures(line.measured) | gains | {"by_kind": by_kind(line.measured.is_correct, kinds)}


def _figures(measured: Measured) -> dict[str, Any]:
    return {
        "layer_tokens": measured.layer_tokens,
        "accuracy": measured.accuracy,
        "standard_error": measured.standard_error,
        "images_per_second": measured.images_per_second,
    }


def _gain(gain: Gain | None) -> dict[str, Any] | None:
    return None if gain is None else gain._asdict() | {"is_clear": gain.is_clear}


_FIGURES = ("layer_tokens", "accuracy", "standard_error", "images_per_second")
_GAINS = ("over_none", "over_random")


def _table(comparison: Comparison) -> list[list[Any]]:
    """A header, then a row per line; a kind of question has columns of its own, and so has a gain's error."""
    kinds = sorted(set(comparison.kinds))
    gains = [f"{name}{part}" for name in _GAINS for part in ("", "_error")]
    of_kinds = [f"{part}_{kind}" for kind in kinds for part in ("accuracy", "questions")]
    header = ["method", "keep", *_FIGURES, *gains, *of_kinds, "refused"]
    return [header, *(_row(line, kinds) for line in comparison.as_dict()["lines"])]


def _row(line: dict[str, Any], kinds: Sequence[str]) -> list[Any]:
    gains = [(line.get(name) or {}).get(part) for name in _GAINS for part in ("difference", "error")]
    of_kinds = [line.get("by_kind", {}).get(kind, {}).get(part) for kind in kinds for part in ("accuracy", "questions")]
    return [line["method"], line["keep"], *map(line.get, _FIGURES), *gains, *of_kinds, line.get("refused")]
