"""Which labels an output's answers are chosen from, from the record of its run. Knows no form."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.compute as pc

from star_batch.commit.answers import visible_rows
from star_batch.storage.location import Location


def labels_of(output: Location, run: Mapping[str, Any]) -> tuple[str, ...]:
    """The choices in the job's order, of all its questions; none where rows bring choices of their own, or have none.

    Raises:
        OutputError: the answers cannot be read.
    """
    choices = list(dict.fromkeys(_choices(run)))
    if not choices:
        return ()
    there: set[str] = set()
    for batch in visible_rows(output, ["label"]):
        there |= set(pc.unique(batch["label"].drop_null()).to_pylist())
    return (*choices, *sorted(there - set(choices)))


def _choices(run: Mapping[str, Any]) -> Iterator[str]:
    config = run.get("config")
    section = config.get("input") if isinstance(config, Mapping) else None
    if not isinstance(section, Mapping):
        return
    questions = section.get("questions")
    asked = list(questions.values()) if isinstance(questions, Mapping) else []
    for question in [section, *asked]:
        choices = question.get("choices") if isinstance(question, Mapping) else None
        yield from (choice for choice in choices or () if isinstance(choice, str))
