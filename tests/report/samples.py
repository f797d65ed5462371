"""Pages made of few numbers, and texts that would like to be more than texts."""

from typing import Any

import numpy as np
import pyarrow as pa

from star_batch.metrics import EngineStats, Summary
from star_batch.monitor.intervals import Interval, Totals
from star_batch.report import Report, RowNotes, Sample
from star_batch.report.rows import Failed
from star_batch.report.samples import grid_of
from tests.pipeline.samples import png

HOSTILE = (
    "<script>document.title='gotcha'</script></script></style></textarea>"
    """"><img src=x onerror=document.title='gotcha'>'"""
)


def summary(**more: Any) -> Summary:
    values: dict[str, Any] = {
        "rows": 2000,
        "answered": 1960,
        "failed": 40,
        "failed_by_type": {"image_missing": 40},
        "num_references": 2000,
        "num_correct": 1824,
        "accuracy": 0.912,
        "mean_visual_tokens": 144.0,
        "mean_kept_tokens": (54.0, 18.0),
        "mean_layer_tokens": 36.0,
        "finish_reasons": {"stop": 1960},
        "images_per_second": 77.04,
        "wall_seconds": 25.0,
        "stage_seconds": {"decode_image": 3.0, "vision": 7.2, "prefill": 4.7},
    }
    return Summary(**values | more)


def pace(num_intervals: int = 5, num_actors: int = 2) -> pa.Table:
    stats = EngineStats(rows_answered=80, decode_rows=300, decode_slots=400, vision_seconds=0.5, prefill_seconds=1.0)
    intervals = [
        Interval(actor=f"actor-{actor}", start=1000.0 + 2 * n, end=1002.0 + 2 * n, stats=stats, fetch_seconds=0.1)
        for actor in range(num_actors)
        for n in range(num_intervals)
    ]
    return Totals(intervals=tuple(intervals)).to_table(run=1)


def sample(id: str = "row-1", **more: Any) -> Sample:
    side, num_visual = 8, 64
    values: dict[str, Any] = {
        "id": id,
        "prompt": "what is it?",
        "answer": "a cat",
        "reference": "a cat",
        "picture": png(100),
        "width": side,
        "height": side,
        "num_visual": num_visual,
        "kept": (tuple(range(16)), tuple(range(0, 16, 2))),
        "grid": grid_of(side, side, num_visual),
    }
    return Sample(**values | more)


def report(**more: Any) -> Report:
    notes = RowNotes(examples={"image_missing": [Failed("row-7", "no image")]})
    notes.prompt_tokens.update({int(n): 3 for n in np.arange(9, 15)})
    notes.output_tokens.update({2: 50, 90: 1})
    run = {"config": {"model": {"name": "demo"}, "pruning": {"method": "star", "keep": 36}}, "started": "2026-11-20T10"}
    values: dict[str, Any] = {
        "place": "bucket/answers",
        "state": "complete",
        "summary": summary(),
        "run": run,
        "notes": notes,
        "pace": pace(),
        "samples": [sample()],
    }
    return Report(**values | more)
