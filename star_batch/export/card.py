"""The card of a dataset: how its rows came to be, from the record of the run. Knows no rows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_HEAD = """\
---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
tags:
- star-batch
---
# Answers of a vision-language model
"""


def card(run: Mapping[str, Any], *, rows: int, answered: int, labels: Sequence[str]) -> str:
    """Markdown; what came from outside stands in blocks of JSON, where it is no markup."""
    return "\n\n".join([_HEAD.rstrip(), *_paragraphs(run, rows, answered, labels)]) + "\n"


def _paragraphs(run: Mapping[str, Any], rows: int, answered: int, labels: Sequence[str]) -> Iterator[str]:
    yield f"{rows:,} rows, {answered:,} of them answered. The others have an `error` and an `error_type` instead."
    yield "Made by star_batch. A row has the `model` and the `fingerprint` of the job that answered it."
    if labels:
        yield f"`label` is a class label, one of these {len(labels):,}:"
        yield _block(list(labels))
    config = run.get("config")
    shown = dict(config) if isinstance(config, Mapping) else {}
    sections = {name: shown[name] for name in ("model", "pruning", "decoding", "input") if name in shown}
    others = {name: run[name] for name in ("started", "generation", "fingerprint", "versions") if name in run}
    yield "## How it was made"
    yield _block(sections | others)


def _block(value: Any) -> str:
    # No backtick, so that nothing in it ends the block.
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str).replace("`", "\\u0060")
    return f"```json\n{text}\n```"
