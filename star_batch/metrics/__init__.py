"""Counters of an engine, how far a job is, and rows made into a summary: plain data and pure functions.

Knows no clock, no file, no Ray, and no exporter: the names under which Prometheus sees all this stand in
`monitor.prometheus`.
"""

from star_batch.metrics.counters import BATCH_ROWS, STEP_SECONDS, EngineStats, Histogram, Phase, Readings
from star_batch.metrics.progress import EngineSnapshot, Progress
from star_batch.metrics.summary import MAX_LABELS, MAX_PAIRS, ONE_QUESTION, OTHER_LABELS, Summary, summarise

__all__ = [
    "BATCH_ROWS",
    "MAX_LABELS",
    "MAX_PAIRS",
    "ONE_QUESTION",
    "OTHER_LABELS",
    "STEP_SECONDS",
    "EngineSnapshot",
    "EngineStats",
    "Histogram",
    "Phase",
    "Progress",
    "Readings",
    "Summary",
    "summarise",
]
