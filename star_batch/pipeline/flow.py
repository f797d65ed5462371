"""The stages as one Ray Data plan: read, preprocess, answer, commit. Knows no row.

Rows are repartitioned twice. Before preprocessing, so that a row group with many rows feeds many tasks; and
after it to the commit unit, because what an actor is given as one block becomes one part. The second one also
keeps Ray from fusing the preprocessing into the engines' processes.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray
import ray.data

from star_batch.config import Faults, JobConfig
from star_batch.errors import ClusterError
from star_batch.pipeline.actor import ActorSettings, EngineActor, answers_schema
from star_batch.pipeline.backend import Backend
from star_batch.pipeline.epochs import Epoch
from star_batch.pipeline.plan import InputPlan
from star_batch.pipeline.preprocess import Preprocess, preprocess_block
from star_batch.pipeline.quarantine import TaskQuarantine, log_deaths, start_warden
from star_batch.pipeline.read import read_dataset
from star_batch.pipeline.sink import AnswersSink

_WINDOWS_PER_CALL = 4  # how many batches of one block Ray Data gives an async actor at a time
_CPUS_PER_WRITE = 0.25
_START_SECONDS = 600.0  # in which a process is placed and has loaded its model


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be done, on a Ray that is there."""

    config: JobConfig
    backend: Backend
    epoch: Epoch
    plan: InputPlan
    monitor: Any = field(default=None, repr=False)

    @property
    def schema(self) -> pa.Schema:
        return answers_schema(self.plan.schema, self.config.input.keep_columns)


def answer_all(work: Work) -> None:
    """Answer and commit every planned row.

    Raises:
        TooManyFailed: more rows have failed than the job allows.
        ClusterError: the machines have no GPU for the actors.
        ray.exceptions.RayError: something failed in a task or an actor.
    """
    unit = work.config.output.rows_per_file
    warden = start_warden(work.config.faults)
    rows = read_dataset(work.plan, rows_per_task=unit)
    rows.context.execution_no_progress_timeout_s = longest_silence(work.config.faults)
    few = rows.repartition(target_num_rows_per_block=unit, strict=True)
    prepared = few.map_batches(
        preprocess_block,
        fn_kwargs={"stage": _preprocess(work), "pieces": TaskQuarantine(warden).pieces},
        batch_size=None,
        batch_format="pyarrow",
        udf_modifying_row_count=False,
    )
    units = prepared.repartition(target_num_rows_per_block=unit, strict=True)
    sink = AnswersSink(work.epoch, work.schema)
    try:
        _answered(work, units, warden).write_datasink(sink, ray_remote_args={"num_cpus": _CPUS_PER_WRITE})
    finally:
        log_deaths(warden)


def _preprocess(work: Work) -> Preprocess:
    load = functools.partial(work.backend.preprocessor, work.config.model)
    return Preprocess(input=work.config.input, schema=work.plan.schema, root=work.plan.root, load=load)


def _answered(work: Work, prepared: "ray.data.Dataset", warden: Any) -> "ray.data.Dataset":
    cluster = work.config.cluster
    settings = ActorSettings(
        config=work.config,
        backend=work.backend,
        fingerprint=work.epoch.fingerprint,
        input_schema=work.plan.schema,
        monitor=work.monitor,
        warden=warden,
    )
    low, high = cluster.actor_range
    calls = num_calls(work.config)
    return prepared.map_batches(
        EngineActor,
        fn_constructor_args=(settings,),
        # Ray puts blocks of fewer rows together: not above the commit unit.
        batch_size=min(cluster.rows_per_window, work.config.output.rows_per_file),
        batch_format="pyarrow",
        udf_modifying_row_count=False,
        num_cpus=cluster.cpus_per_actor,
        num_gpus=gpus_per_actor(work.config),
        compute=ray.data.ActorPoolStrategy(min_size=low, max_size=high, max_concurrent_calls_per_actor=calls),
    )


def longest_silence(faults: Faults) -> float:
    """Seconds after which a job that moves no block has come to a stop: more than all that may be gone through."""
    return faults.max_deaths_in_a_row * (faults.hang_seconds + _START_SECONDS)


def num_calls(config: JobConfig) -> int:
    """Blocks that an actor works on at the same time: enough for its windows, and one for when a block ends.

    Not more, because these are the rows that are answered again after a crash.
    """
    windows = config.cluster.windows
    per_call = min(_WINDOWS_PER_CALL, math.ceil(config.output.rows_per_file / config.cluster.rows_per_window))
    return min(windows, math.ceil(windows / per_call) + 1)


def gpus_per_actor(config: JobConfig) -> float:
    """As configured, or one where the device or the cluster says that there are GPUs.

    Raises:
        ClusterError: a Ray on this machine has not enough of them, and would wait for ever.
    """
    there = ray.cluster_resources().get("GPU", 0.0)
    device = config.model.device
    wants_gpu = device.startswith("cuda") or (device == "auto" and there > 0)
    chosen = config.cluster.gpus_per_actor
    gpus = chosen if chosen is not None else float(wants_gpu)
    needed = gpus * config.cluster.actor_range[0]
    # A cluster elsewhere may grow; this machine will not.
    if config.cluster.address is None and needed > there:
        raise ClusterError(
            f"the actors need {needed:g} GPUs and Ray sees {there:g} here; use device cpu or fewer actors"
        )
    return gpus
