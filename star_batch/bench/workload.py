"""The requests that everybody answers: seeded random ones, the demo's scenes, or rows of a Parquet file.

Images are decoded and resized here, before any clock runs: every contender starts from the same pixels.
Knows no engine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import dataset

from star_batch import images
from star_batch.bench.comparison import Comparison
from star_batch.bench.subject import WORDS
from star_batch.demo.compare import held_out
from star_batch.errors import InputError, RecordError
from star_batch.models import Preprocessor
from star_batch.records import Picture, Record, matches


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Records whose images are pictures; `references` are the right answers, None where nobody knows them."""

    records: tuple[Record, ...]
    references: tuple[str, ...] | None = None

    def accuracy(self, texts: Sequence[str]) -> float | None:
        """Share of exact matches; None without references."""
        if self.references is None:
            return None
        return sum(map(matches, texts, self.references)) / len(self.references)


def make_workload(comparison: Comparison, preprocessor: Preprocessor) -> Workload:
    """What `comparison` asks for.

    Raises:
        InputError: the input cannot be read, has no such column, or too few rows.
    """
    if comparison.input is not None:
        return _from_rows(_parquet_rows(comparison, comparison.input), preprocessor)
    if comparison.model == "demo":
        rows = [(row["image"], row["question"], row["answer"]) for row in held_out(comparison.requests)]
        return _from_rows(rows, preprocessor)
    return Workload(records=tuple(_random_records(comparison, preprocessor)))


def _random_records(comparison: Comparison, preprocessor: Preprocessor) -> Iterator[Record]:
    random = np.random.default_rng(comparison.seed)
    least, most = comparison.prompt_words
    system = [WORDS[number % len(WORDS)] for number in range(comparison.system_words)]
    for number in range(comparison.requests):
        prompt = " ".join(random.choice(WORDS, random.integers(least, most, endpoint=True)))
        views = random.integers(0, 256, preprocessor.typical.views.shape, dtype=np.uint8)
        picture = Picture(views, preprocessor.typical.size)
        if system:
            text = preprocessor.render(prompt).removeprefix(preprocessor.tokenizer.bos_token or "")
            yield Record(f"r{number}", picture, " ".join([*system, text]), raw=True)
        else:
            yield Record(f"r{number}", picture, prompt)


def picture_of(record: Record) -> Picture:
    """The one picture of a workload's record."""
    assert isinstance(record.image, Picture)
    return record.image


def _from_rows(rows: list[tuple[bytes, str, str | None]], preprocessor: Preprocessor) -> Workload:
    records = tuple(_record(f"r{n}", image, prompt, preprocessor) for n, (image, prompt, _) in enumerate(rows))
    references = [reference for *_, reference in rows if reference is not None]
    return Workload(records=records, references=tuple(references) if len(references) == len(rows) else None)


def _record(id: str, image: bytes, prompt: str, preprocessor: Preprocessor) -> Record:
    try:
        return Record(id, preprocessor.picture(images.decode(image)), prompt)
    except RecordError as error:
        raise InputError(f"row {id[1:]}: {error}; a bench needs rows without fault") from None


def _parquet_rows(comparison: Comparison, path: Path) -> list[tuple[bytes, str, str | None]]:
    reference = [comparison.reference_column] if comparison.reference_column is not None else []
    columns = ["image", comparison.prompt_column, *reference]
    try:
        table = dataset.dataset(path).head(comparison.requests, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path.name}: cannot be read: {str(error).partition(chr(10))[0]}") from None
    if table.num_rows < comparison.requests:
        raise InputError(f"{path.name}: {table.num_rows} rows; {comparison.requests} requests were asked for")
    values = [table[name].to_pylist() for name in columns]
    truths = [str(value) for value in values[2]] if reference else [None] * table.num_rows
    return list(zip(map(_bytes_of, values[0]), values[1], truths, strict=True))


def _bytes_of(image: Any) -> bytes:
    """Encoded bytes, also in the form `{bytes, path}` of other tools' files."""
    data = image.get("bytes") if isinstance(image, dict) else image
    return data if isinstance(data, bytes) else b""
