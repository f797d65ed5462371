"""For people with Ray Data pipelines of their own: `import star_batch.ray as sb`. Imports nothing until it is asked.

`sb.Answers` is a stage, from a dataset to a dataset; `sb.AnswersSink` writes any dataset so that each id is there once.
The others are options. Ray itself is `import ray`, as ever.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from star_batch.options import Decoding, EngineOptions
    from star_batch.pipeline.dataset_sink import DatasetSink as AnswersSink
    from star_batch.pipeline.stage import Answers
    from star_batch.pruning import Pruning

__all__ = ["Answers", "AnswersSink", "Decoding", "EngineOptions", "Pruning"]

_PLACES = {
    "Answers": ("pipeline.stage", "Answers"),
    "AnswersSink": ("pipeline.dataset_sink", "DatasetSink"),
    "Decoding": ("options", "Decoding"),
    "EngineOptions": ("options", "EngineOptions"),
    "Pruning": ("pruning", "Pruning"),
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        module, attribute = _PLACES[name]
        return getattr(importlib.import_module(f"star_batch.{module}"), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
