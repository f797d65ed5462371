"""Rules and dashboard of k8s/monitoring as a Prometheus without an operator, and without Grafana, takes them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from star_batch.monitor.prometheus import ENGINE, JOB, OUTCOME, SUMMARY

FOLDER = Path(__file__).parents[2] / "k8s" / "monitoring"
RULES = yaml.safe_load((FOLDER / "rules.yaml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))

KUBE_STATE_METRICS = {"kube_cronjob_next_schedule_time", "kube_cronjob_status_last_successful_time"}
_SUFFIXES = {"histogram": ("_bucket", "_count", "_sum")}
_NAME = re.compile(r"\b(?:ray_)?star_batch_\w+|\bkube_\w+")


def write_rules(folder: Path) -> Path:
    """What a `PrometheusRule` holds is what Prometheus reads from a file."""
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump(RULES["spec"]), encoding="utf-8")
    return file


def rules() -> list[dict[str, Any]]:
    return [rule for group in RULES["spec"]["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """The panel's title and each of its queries, its variables filled in as Grafana does it for All."""
    values = {"$namespace": ".*", "$cluster": ".*", "$__rate_interval": "1m"}
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in values.items():
                expression = expression.replace(name, value)
            yield panel["title"], expression


def names_in(expression: str) -> set[str]:
    """Names of metrics, also inside quotes of a label: those would be a mistake, too."""
    return set(_NAME.findall(expression))


def exported() -> set[str]:
    """Every name that a series of ours can have."""
    engine = {name for metric in ENGINE for name in _series(metric.name, metric.kind)}
    rest = {metric.name for metrics in (JOB, SUMMARY, OUTCOME) for metric in metrics}
    return engine | {f"ray_{name}" for name in engine} | rest


def _series(name: str, kind: str) -> list[str]:
    return [name + suffix for suffix in _SUFFIXES.get(kind, ("",))]
