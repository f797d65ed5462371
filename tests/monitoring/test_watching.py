"""A real job as the real Prometheus sees it: asked while it runs, told when it ends."""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from star_batch.config import JobConfig, parse_config
from star_batch.demo.dataset import write_parquet
from star_batch.metrics import Summary
from star_batch.pipeline.backend import Backend
from star_batch.pipeline.job import run
from tests.monitoring import held, manifests
from tests.monitoring.servers import Prometheus, free_port, prometheus, pushgateway, wait_for

pytestmark = pytest.mark.ray

ROWS, BROKEN = 200, 40
CHOICES = ["a red circle", "a red square", "a blue circle"]
JOB = "nightly"

COUNTED_BY_RAY = "sum by (WorkerId) (ray_star_batch_rows_total) == on () group_left () sum(star_batch_rows_total)"
# Seen twice at least: of a counter that was seen once there is no rate, and a panel of rates stays empty.
HALF_DONE = (COUNTED_BY_RAY, "rate(star_batch_errors_total[1m])", "rate(ray_star_batch_errors_total[1m])")


@dataclass(frozen=True)
class Watched:
    """A job that is over: what Prometheus saw `while_it_ran`, and what it knows now."""

    prometheus: Prometheus
    while_it_ran: float
    summary: Summary
    text: str


@pytest.fixture(scope="module")
def watched(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    import ray

    folder = tmp_path_factory.mktemp("watched")
    write_parquet(folder / "in", ROWS, seed=1, num_bad=BROKEN)
    ray.cloudpickle.register_pickle_by_value(held)
    [node] = ray.nodes()
    port = free_port()
    with pushgateway(folder) as gateway:
        targets = {
            "driver": f"127.0.0.1:{port}",
            "ray": f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}",
            "pushgateway": gateway,
        }
        with prometheus(folder, targets, manifests.write_rules(folder)) as server:
            with at_work(job_config(folder, port, gateway), folder / "hold") as finish:
                wait_for("a job that is half done", lambda: all(server.query(what) for what in HALF_DONE))
                while_it_ran = time.time()
                summary = finish()
            wait_for("what was pushed", lambda: server.query("star_batch_last_run_success"))
            text = (folder / "out" / "_metrics" / "metrics.prom").read_text(encoding="utf-8")
            yield Watched(server, while_it_ran, summary, text)
    ray.cloudpickle.unregister_pickle_by_value(held)


def job_config(folder: Path, port: int, gateway: str) -> JobConfig:
    columns = {"id_column": "id", "prompt_column": "question", "reference_column": "answer", "choices": CHOICES}
    return parse_config(
        {
            "input": {"path": str(folder / "in"), **columns},
            "output": {"path": str(folder / "out"), "rows_per_file": 50},
            "model": "demo",
            "pruning": {"method": "star", "keep": 36},
            "cluster": {"rows_per_window": 50},
            "metrics": {"port": port, "pushgateway": f"http://{gateway}", "job": JOB},
        }
    )


@contextlib.contextmanager
def at_work(config: JobConfig, hold: Path) -> Iterator[Callable[[], Summary]]:
    """The job in a thread of its own, held half-way until it is told to finish."""
    hold.touch()
    backend = Backend(engine=functools.partial(held.load_held, file=str(hold)))
    summaries: list[Summary] = []
    thread = threading.Thread(target=lambda: summaries.append(run(config, backend=backend)))

    def finish() -> Summary:
        hold.unlink(missing_ok=True)
        thread.join(timeout=200)
        [summary] = summaries
        return summary

    thread.start()
    try:
        yield finish
    finally:
        hold.unlink(missing_ok=True)
        thread.join(timeout=200)


def test_the_driver_tells_how_far_the_job_is(watched: Watched) -> None:
    server, at = watched.prometheus, watched.while_it_ran
    done, left = (server.value(what, at) for what in ("sum(star_batch_rows_total)", "star_batch_job_rows_left"))
    assert server.value("star_batch_job_rows", at) == ROWS
    assert done is not None
    assert left == ROWS - done < ROWS
    assert server.value("star_batch_job_engines", at) == 1
    assert (server.value("star_batch_idle_seconds_total", at) or 0) > 0


def test_the_stages_of_pruning_are_told_apart(watched: Watched) -> None:
    server, at = watched.prometheus, watched.while_it_ran
    kept = {labels["stage"]: value for labels, value in server.query("star_batch_visual_tokens_total", at)}
    rows = server.value('star_batch_batch_rows_sum{phase="prefill"}', at)
    assert rows
    assert kept == {"offered": 144 * rows, "early": 54 * rows, "late": 18 * rows}


def test_a_histogram_counts_every_step_once(watched: Watched) -> None:
    server, at = watched.prometheus, watched.while_it_ran
    for phase in ("prefill", "decode"):
        steps = server.value(f'star_batch_step_seconds_count{{phase="{phase}"}}', at)
        assert steps
        assert server.value(f'star_batch_batch_rows_count{{phase="{phase}"}}', at) == steps
        assert server.value(f'star_batch_batch_rows_bucket{{phase="{phase}", le="+Inf"}}', at) == steps


@pytest.mark.parametrize(
    "name",
    ["rows_total", "errors_total", "tokens_total", "visual_tokens_total", "batch_rows_bucket", "step_seconds_bucket"],
)
def test_ray_exports_what_the_driver_adds_up(watched: Watched, name: str) -> None:
    """There is one engine, but those of other tests may have left theirs in the same Ray."""
    by = "outcome, error_type, direction, stage, phase, le"
    mine = f"sum by ({by}) (star_batch_{name} > 0)"
    rays = f"sum by ({by}) ((ray_star_batch_{name} and on (WorkerId) ({COUNTED_BY_RAY})) > 0)"
    server, at = watched.prometheus, watched.while_it_ran
    assert server.query(mine, at)
    assert sorted(server.query(mine, at), key=str) == sorted(server.query(rays, at), key=str)


def test_every_name_exists(watched: Watched) -> None:
    assert manifests.exported() - watched.prometheus.names() == set()


@pytest.mark.parametrize(("title", "query"), list(manifests.queries()))
def test_every_panel_shows_something(watched: Watched, title: str, query: str) -> None:
    server = watched.prometheus
    assert server.query(query, watched.while_it_ran) or server.query(query), title


def test_the_alerts_are_watched(watched: Watched) -> None:
    [group] = watched.prometheus.get("rules")["groups"]
    assert {rule["name"] for rule in group["rules"]} == {rule["alert"] for rule in manifests.rules()}
    assert {rule["health"] for rule in group["rules"]} == {"ok"}


def test_the_end_is_pushed_under_the_jobs_name(watched: Watched) -> None:
    server, summary = watched.prometheus, watched.summary
    [(labels, is_success)] = server.query("star_batch_last_run_success")
    assert (labels["job"], is_success) == (JOB, 1.0)
    assert (summary.rows, summary.failed) == (ROWS, BROKEN)
    for outcome in ("answered", "failed"):
        pushed = server.value(f'star_batch_output_rows{{outcome="{outcome}"}}')
        assert pushed == getattr(summary, outcome)
        assert f'star_batch_output_rows{{outcome="{outcome}"}} {pushed}\n' in watched.text


def test_the_endpoint_ends_with_the_job(watched: Watched) -> None:
    wait_for("the end of the endpoint", lambda: watched.prometheus.value('up{job="driver"}') == 0)
