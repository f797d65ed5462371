"""star_batch: batch inference for vision-language models, with visual token pruning.

The public door. `Engine` is loaded when it is first asked for, so that the command line, and whoever
only needs records and options, does not wait for torch.
"""

from typing import TYPE_CHECKING, Any

from star_batch.options import Decoding, EngineOptions, Pruning
from star_batch.records import Answer, Record

if TYPE_CHECKING:
    from star_batch.engine import Engine

__version__ = "0.1.0"

__all__ = ["Answer", "Decoding", "Engine", "EngineOptions", "Pruning", "Record"]


def __getattr__(name: str) -> Any:
    if name == "Engine":
        from star_batch.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
