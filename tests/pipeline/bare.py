"""A whole job in one process: everything is real but Ray and the engine, so that it can be killed by the hundred."""

import contextlib
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from star_batch.commit.unit import commit_rows
from star_batch.config import JobConfig
from star_batch.errors import StarBatchError
from star_batch.inputs.pieces import ID_COLUMN
from star_batch.inputs.prepared import kept_names
from star_batch.inputs.rows import read_rows
from star_batch.monitor.intervals import Totals
from star_batch.pipeline import job
from star_batch.pipeline.flow import Work
from star_batch.records import Answer, to_table
from star_batch.storage.crashes import VARIABLE
from tests.pipeline.fakes import FAKE

LOG = "STAR_BATCH_TEST_LOG"
SECONDS_PER_UNIT = "STAR_BATCH_TEST_SECONDS"
HOLD = "STAR_BATCH_TEST_HOLD"

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tests.pipeline.bare"])


def answer_all(work: Work) -> None:
    """Every unit of rows is answered, noted down and committed, one after the other; while the file `HOLD` is
    there, none after the first."""
    tables = pa.concat_tables(table for group in work.plan.pieces for table in read_rows(work.plan, group))
    ids = tables[ID_COLUMN].to_pylist()
    unit = work.config.output.rows_per_file
    for start in range(0, len(ids), unit):
        time.sleep(float(os.environ.get(SECONDS_PER_UNIT, "0")))
        some = ids[start : start + unit]
        with open(os.environ[LOG], "ab", buffering=0) as log:
            log.write("".join(f"{id}\n" for id in some).encode())
        answers = [Answer(id=id, text=id) for id in some]
        table = to_table(answers, model="fake", fingerprint=work.epoch.fingerprint)
        for column, name in kept_names(work.config.input).items():
            table = table.append_column(name, tables[column].slice(start, unit).combine_chunks())
        commit_rows(work.epoch, table)
        while os.path.exists(os.environ.get(HOLD, "")):
            time.sleep(0.05)


WITHOUT_RAY: Mapping[str, Any] = {
    "answer_all": answer_all,
    "connected": lambda *_, **__: contextlib.nullcontext(),
    "start_monitor": lambda: None,
    "Reporter": lambda **_: contextlib.nullcontext(),
    "read_totals": lambda _: Totals(),
    "shown_resources": dict,
}
"""What stands in for names of `star_batch.pipeline.job`."""


def be_job(config: JobConfig, environment: Mapping[str, str]) -> None:
    """What a process of `start` does; its exit code is the command line's."""
    os.environ.update(environment)
    for name, substitute in WITHOUT_RAY.items():
        setattr(job, name, substitute)
    logging.disable()
    try:
        job.run(config, backend=FAKE)
    except StarBatchError as error:
        with open(f"{os.environ[LOG]}.errors", "a", encoding="utf-8") as log:
            print(error, file=log)
        sys.exit(error.exit_code)


@contextlib.contextmanager
def start(config: JobConfig, log: str, **environment: str) -> Iterator[Any]:
    """A process that is at work on the job; it does not outlive the block."""
    process = _processes.Process(target=be_job, args=(config, {VARIABLE: "", LOG: log} | environment))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def finish(config: JobConfig, log: str, **environment: str) -> int:
    """The exit code of a job that is left alone; minus the signal, if one killed it."""
    with start(config, log, **environment) as process:
        process.join(timeout=120)
        return int(process.exitcode if process.exitcode is not None else 1000)
