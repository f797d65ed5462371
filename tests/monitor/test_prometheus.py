"""What Prometheus sees: one name for one thing, and what is shown is what was counted."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from star_batch.metrics import EngineSnapshot, EngineStats, Progress, Readings, Summary
from star_batch.monitor.prometheus import (
    ENGINE,
    JOB,
    OUTCOME,
    SUMMARY,
    Metric,
    Outcome,
    end_registry,
    job_registry,
    to_text,
)

EVERY: list[Metric[Any]] = [*ENGINE, *JOB, *SUMMARY, *OUTCOME]

SUMMARY_OF_FOUR = Summary(
    rows=4,
    answered=2,
    failed=2,
    failed_by_type={"image_missing": 2},
    accuracy=0.25,
    mean_kept_tokens=(50.0, 10.0),
    images_per_second=1.0,
    stage_seconds={"decode": 3.0},
)


def parsed(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and labels' values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def shown(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    return parsed(generate_latest(registry).decode())


def busy() -> EngineSnapshot:
    readings = Readings(rows_waiting=7, pages_in_use=(3, 1), pages=(8, 8), idle_seconds=0.5, kept_tokens=(600,))
    for rows, seconds in ((4, 0.002), (8, 0.02), (9, 20.0)):
        readings.observe("decode", rows=rows, seconds=seconds)
    stats = EngineStats(rows_answered=30, rows_failed=2, prefill_tokens=900, visual_tokens=4000)
    return EngineSnapshot(engines=2, stats=stats, readings=readings, errors=Counter(image_missing=2))


def test_a_summary_as_text() -> None:
    samples = parsed(to_text(SUMMARY_OF_FOUR))
    assert samples["star_batch_output_rows", "answered"] == 2
    assert samples["star_batch_output_errors", "image_missing"] == 2
    assert samples["star_batch_output_accuracy_ratio",] == 0.25
    assert samples["star_batch_output_visual_tokens_mean", "kept_1"] == 10.0
    assert samples["star_batch_run_images_per_second",] == 1.0
    assert samples["star_batch_run_stage_seconds", "decode"] == 3.0
    assert all(math.isfinite(value) for value in samples.values())


def test_each_question_has_an_agreement() -> None:
    samples = parsed(to_text(replace(SUMMARY_OF_FOUR, agreement={"colour": 0.75, "shape": 1.0})))
    assert samples["star_batch_output_agreement_ratio", "colour"] == 0.75


def test_a_summary_of_nothing() -> None:
    assert "nan" not in to_text(Summary(rows=0, answered=0, failed=0)).lower()


def test_text_takes_any_label() -> None:
    label = 'a "quoted"\nand \\ broken name'
    samples = parsed(to_text(Summary(rows=1, answered=1, failed=0, labels={label: 1})))
    assert samples["star_batch_output_labels", label] == 1


def test_a_job_that_runs() -> None:
    progress = Progress.at(busy(), seconds=8.0, before=10, total=100)
    samples = shown(job_registry(lambda: progress))
    assert samples["star_batch_job_rows_left",] == 58
    assert samples["star_batch_job_engines",] == 2
    assert samples["star_batch_rows_total", "answered"] == 30
    assert samples["star_batch_errors_total", "image_missing"] == 2
    assert samples["star_batch_visual_tokens_total", "early"] == 600
    assert samples["star_batch_pages_in_use", "1"] == 1
    bounds = ("2.0", "4.0", "8.0", "16.0", "+Inf")
    assert [samples["star_batch_batch_rows_bucket", bound, "decode"] for bound in bounds] == [0, 1, 2, 3, 3]
    assert samples["star_batch_step_seconds_count", "decode"] == 3
    assert samples["star_batch_step_seconds_sum", "decode"] == 20.022
    assert samples["star_batch_step_seconds_count", "prefill"] == 0


@pytest.mark.parametrize(
    ("kept", "stages"),
    [
        ((), {"early": 0, "late": 0}),
        ((5,), {"early": 5, "late": 5}),
        ((5, 3), {"early": 5, "late": 3}),
        ((9, 5, 3, 1), {"early": 9, "late_1": 5, "late_2": 3, "late_3": 1}),
    ],
)
def test_any_number_of_stages_is_told_apart(kept: tuple[int, ...], stages: dict[str, int]) -> None:
    snapshot = replace(busy(), readings=replace(busy().readings, kept_tokens=kept))
    samples = shown(job_registry(lambda: Progress.at(snapshot, seconds=8.0, before=10, total=100)))
    found = {key[1]: value for key, value in samples.items() if key[0] == "star_batch_visual_tokens_total"}
    assert found == {"offered": 4000, **stages}


def test_before_a_job_has_told_anything_nothing_is_shown() -> None:
    assert shown(job_registry(lambda: None)) == {}


def test_how_a_run_ended() -> None:
    success = shown(end_registry(Outcome(is_success=True, at=99.0), SUMMARY_OF_FOUR))
    assert success["star_batch_last_run_success",] == 1
    assert success["star_batch_last_success_timestamp_seconds",] == 99
    assert success["star_batch_output_rows", "failed"] == 2
    assert shown(end_registry(Outcome(is_success=False, at=99.0), None)) == {("star_batch_last_run_success",): 0}


def test_the_process_wide_registry_stays_as_it_is() -> None:
    before = list(REGISTRY.collect())
    to_text(SUMMARY_OF_FOUR)
    assert [family.name for family in REGISTRY.collect()] == [family.name for family in before]
    assert not any(family.name.startswith("star_batch") for family in before)


def test_names_follow_the_habits_of_prometheus() -> None:
    names = [metric.name for metric in EVERY]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"star_batch(_[a-z]+)+", name) for name in names)
    assert all(metric.help and not metric.help.endswith(".") for metric in EVERY)
    assert not any(metric.name.endswith("_total") for metric in EVERY if metric not in ENGINE)


def labels_of(metrics: list[Metric[Any]]) -> Iterator[str]:
    return (metric.label for metric in metrics if metric.label)


def test_labels_are_few_and_hold_no_id() -> None:
    allowed = {"outcome", "error_type", "direction", "stage", "phase", "group", "reason", "label", "question"}
    assert set(labels_of(EVERY)) == allowed


def test_the_readme_names_every_metric_and_every_label() -> None:
    readme = (Path(__file__).parents[2] / "star_batch" / "monitor" / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Metrics")[2].partition("\n## ")[0]
    for metric in EVERY:
        label = f"{{{metric.label}}}" if metric.label else ""
        assert f"`{metric.name.removeprefix('star_batch_')}{label}`" in section
