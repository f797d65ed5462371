"""A job as a user writes it: YAML and flags, checked whole before anything is loaded. Knows no Ray, no model.

Every mistake is named by its key, with what is allowed there. What this door shows is loaded when it is first asked
for, so that whoever needs a number of it alone does not wait for pydantic.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from star_batch.config.cluster import Cluster, Faults, Metrics
    from star_batch.config.defaults import MAX_IMAGE_PIXELS, RETRY_SECONDS
    from star_batch.config.flags import FLAGS, FORMER_FLAGS
    from star_batch.config.input import ALL_COLUMNS, Fetch, Input, Question
    from star_batch.config.load import load_config, parse_config
    from star_batch.config.schema import EXPORT_FORMATS, ExportFormat, JobConfig, Model, Output

__all__ = [
    "ALL_COLUMNS",
    "EXPORT_FORMATS",
    "FLAGS",
    "FORMER_FLAGS",
    "MAX_IMAGE_PIXELS",
    "RETRY_SECONDS",
    "Cluster",
    "ExportFormat",
    "Faults",
    "Fetch",
    "Input",
    "JobConfig",
    "Metrics",
    "Model",
    "Output",
    "Question",
    "load_config",
    "parse_config",
]

_MODULES = {
    "cluster": ("Cluster", "Faults", "Metrics"),
    "defaults": ("MAX_IMAGE_PIXELS", "RETRY_SECONDS"),
    "flags": ("FLAGS", "FORMER_FLAGS"),
    "input": ("ALL_COLUMNS", "Fetch", "Input", "Question"),
    "load": ("load_config", "parse_config"),
    "schema": ("EXPORT_FORMATS", "ExportFormat", "JobConfig", "Model", "Output"),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"star_batch.config.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
