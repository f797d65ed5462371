"""star_batch: batch inference for vision-language models, with visual token pruning.

The public door. What it shows is loaded when it is first asked for, so that the command line hears Ctrl-C at
once, and whoever only needs records and options does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from star_batch.api import plan, run
    from star_batch.commit.answers import read_answers
    from star_batch.config import JobConfig, load_config
    from star_batch.engine import Engine
    from star_batch.options import Decoding, EngineOptions
    from star_batch.pruning import Pruning
    from star_batch.records import Answer, Record

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Decoding",
    "Engine",
    "EngineOptions",
    "JobConfig",
    "Pruning",
    "Record",
    "load_config",
    "plan",
    "read_answers",
    "run",
]


_ROOMS = {
    "Answer": "records",
    "Decoding": "options",
    "Engine": "engine",
    "EngineOptions": "options",
    "JobConfig": "config",
    "Pruning": "pruning",
    "Record": "records",
    "load_config": "config",
    "plan": "api",
    "read_answers": "commit.answers",
    "run": "api",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(f"star_batch.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
