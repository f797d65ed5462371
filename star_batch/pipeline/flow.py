"""The stages as one Ray Data plan: read, preprocess, answer, commit. Knows no row.

Rows are repartitioned twice. Before preprocessing, so that a row group with many rows feeds many tasks; and
after it into windows, because what an actor is given as one block is repeated as a whole when the actor dies. The
second one also keeps Ray from fusing the preprocessing into the engines' processes. The sink puts windows together.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray
import ray.data

from star_batch.commit.snapshots import Epoch
from star_batch.config import Faults, JobConfig
from star_batch.inputs.preprocess import Preprocess, preprocess_block
from star_batch.inputs.rows import InputPlan
from star_batch.inputs.sources import Sources
from star_batch.pipeline.actor import ActorSettings, EngineActor, answers_schema
from star_batch.pipeline.backend import Backend
from star_batch.pipeline.devices import Place, find_place
from star_batch.pipeline.quarantine import TaskQuarantine, log_deaths, start_coordinator
from star_batch.pipeline.read import read_dataset
from star_batch.pipeline.sink import AnswersSink
from star_batch.report.samples import Sampler

_CPUS_PER_WRITE = 0.25
_START_SECONDS = 600.0  # in which a process is placed and has loaded its model


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be done, on a Ray that is there."""

    config: JobConfig
    backend: Backend
    epoch: Epoch
    plan: InputPlan
    sampler: Sampler
    is_own_ray: bool = False
    monitor: Any = field(default=None, repr=False)

    @property
    def schema(self) -> pa.Schema:
        return answers_schema(self.plan.schema, self.config.input)


def answer_all(work: Work) -> None:
    """Answer and commit every planned row.

    Raises:
        TooManyFailed: more rows have failed than the job allows.
        ClusterError: the job asks for GPUs, there are none, and none will come.
        ray.exceptions.RayError: something failed in a task or an actor.
    """
    place = find_place(work.config, is_own_ray=work.is_own_ray)
    output = work.config.output
    coordinator = start_coordinator(work.config.faults)
    rows = read_dataset(work.plan, rows_per_task=output.rows_per_file)
    rows.context.execution_no_progress_timeout_s = longest_silence(work.config.faults)
    few = rows.repartition(target_num_rows_per_block=output.rows_per_file, strict=True)
    prepared = few.map_batches(
        preprocess_block,
        fn_kwargs={"stage": _preprocess(work), "pieces": TaskQuarantine(coordinator).pieces},
        batch_size=None,
        batch_format="pyarrow",
        udf_modifying_row_count=False,
    )
    sink = AnswersSink(work.epoch, work.schema, output.rows_per_file)
    try:
        _answered(work, place, prepared, sink, coordinator).write_datasink(
            sink, ray_remote_args={"num_cpus": _CPUS_PER_WRITE}
        )
    finally:
        log_deaths(coordinator)


def _preprocess(work: Work) -> Preprocess:
    load = functools.partial(work.backend.preprocessor, work.config.model)
    sources = Sources.of(work.config.input, work.plan.root, only_names=work.plan.only_names)
    return Preprocess(input=work.config.input, schema=work.plan.schema, sources=sources, load=load)


def _answered(
    work: Work, place: Place, prepared: "ray.data.Dataset", sink: AnswersSink, coordinator: Any
) -> "ray.data.Dataset":
    cluster = work.config.cluster
    rows_per_window = min(cluster.rows_per_window, work.config.output.rows_per_file)
    settings = ActorSettings(
        config=place.on(work.config),
        backend=work.backend,
        fingerprint=work.epoch.fingerprint,
        input_schema=work.plan.schema,
        sink=sink,
        sampler=work.sampler,
        monitor=work.monitor,
        coordinator=coordinator,
    )
    low, high = cluster.actor_range
    # One more than the engine works on: it waits at the door.
    calls = cluster.windows + 1
    windows = prepared.repartition(target_num_rows_per_block=rows_per_window, strict=True)
    return windows.map_batches(
        EngineActor,
        fn_constructor_args=(settings,),
        batch_size=rows_per_window,
        batch_format="pyarrow",
        num_cpus=cluster.cpus_per_actor,
        num_gpus=place.gpus,
        compute=ray.data.ActorPoolStrategy(min_size=low, max_size=high, max_concurrent_calls_per_actor=calls),
    )


def longest_silence(faults: Faults) -> float:
    """Seconds after which a job that moves no block has come to a stop: more than all that may be gone through."""
    return faults.max_deaths_in_a_row * (faults.hang_seconds + _START_SECONDS)
