"""One engine's metrics through Ray's own exporter. Knows no name: those stand in `star_batch.monitor.prometheus`."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import ray.util.metrics

from star_batch.metrics import EngineSnapshot, Histogram
from star_batch.monitor.prometheus import ENGINE, Metric


class RayMetrics:
    """One engine's metrics as Ray exports them, `ray_` before each name; Ray tells the actors apart by itself."""

    def __init__(self) -> None:
        self._exported = [(metric, _ray_metric(metric)) for metric in ENGINE]
        self._counted: dict[tuple[str, ...], float] = {}
        self._observed: dict[tuple[str, ...], Histogram] = {}

    def export(self, snapshot: EngineSnapshot) -> None:
        """Ray adds up: it is handed what has come since the last time."""
        for metric, exported in self._exported:
            for labels, value in metric.samples(snapshot):
                key = (metric.name, *labels.values())
                if isinstance(value, Histogram):
                    self._observe(exported, labels, key, value)
                elif metric.kind == "counter":
                    self._count(exported, labels, key, value)
                else:
                    exported.set(value, labels)

    def _count(self, exported: Any, labels: dict[str, str], key: tuple[str, ...], value: float) -> None:
        new = value - self._counted.get(key, 0.0)
        if new > 0:
            exported.inc(new, labels)
            self._counted[key] = value

    def _observe(self, exported: Any, labels: dict[str, str], key: tuple[str, ...], value: Histogram) -> None:
        """Ray, too, keeps of a value only its bucket: its sums are those of the buckets' middles."""
        new = value - self._observed.get(key, Histogram.over(value.bounds))
        for middle, count in zip(_middles(value.bounds), new.counts, strict=True):
            for _ in range(count):
                exported.observe(middle, labels)
        self._observed[key] = value


def _middles(bounds: Sequence[float]) -> list[float]:
    """A value in each bucket."""
    return [(low + high) / 2 for low, high in pairwise((0.0, *bounds, 2 * bounds[-1]))]


def _ray_metric(metric: Metric[EngineSnapshot]) -> Any:
    tags = (metric.label,) if metric.label else ()
    if metric.kind == "histogram":
        return ray.util.metrics.Histogram(metric.name, metric.help, boundaries=list(metric.bounds), tag_keys=tags)
    kind = ray.util.metrics.Counter if metric.kind == "counter" else ray.util.metrics.Gauge
    return kind(metric.name, metric.help, tag_keys=tags)
