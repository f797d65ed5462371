"""Answers as a stage of somebody's own Ray Data pipeline: a dataset in, the same rows with their answers out.

The pieces are a job's: preprocessing in tasks, engines in actors, rows that kill their process kept apart. What is a
job's alone is not here: where rows come from, where answers go, and what is promised about them are the pipeline's.
"""

import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from star_batch.commit.fingerprint import Fingerprint, Generation, fingerprint_of
from star_batch.config import Faults, Input, JobConfig
from star_batch.errors import ConfigError, InputError, ValueInvalid
from star_batch.inputs.columns import Wanted, unified_schema, wanted_columns
from star_batch.inputs.pieces import ID_COLUMN
from star_batch.inputs.planned_row import PictureMaker
from star_batch.inputs.prepared import PREPARED_SCHEMA
from star_batch.inputs.preprocess import Pieces, Preprocess, preprocess_block
from star_batch.inputs.sources import Sources
from star_batch.options import Decoding, EngineOptions
from star_batch.pipeline.actor import ActorSettings, EngineActor
from star_batch.pipeline.backend import Backend
from star_batch.pipeline.blocks import PACKED, halves, packed, plain_schema, planned, unpacked, with_answers
from star_batch.pipeline.devices import find_place
from star_batch.pipeline.flow import longest_silence
from star_batch.pipeline.quarantine import TaskQuarantine, start_coordinator
from star_batch.pipeline.stage_options import added_columns, stage_config
from star_batch.pruning import Pruning
from star_batch.report.samples import Sampler
from star_batch.storage.location import Location
from star_batch.wording import printable

logger = logging.getLogger(__name__)

_ROWS_PER_STEP = 64
_CPUS_PER_PACKING = 0.5


class Answers:
    """A stage that answers a question about an image for each row of a dataset.

    stage = Answers(model="llava-hf/llava-1.5-7b-hf", prompt_column="question", actors=(1, 8))
    answered = stage(ray.data.read_parquet("s3://bucket/rows/"))

    It is lazy, as every stage of Ray Data. Each row comes out once, with all columns that it had and those of its
    answer; a row that cannot be answered has `error` and `error_type`. Everything else is as Ray promises it: a run
    that fails begins anew, rows are in order only with `preserve_order`, and nothing is written anywhere.

    Args:
        model: what a job has in its section `model`, or the model's name alone.
        pruning, decoding, engine: as in a job, or its section's keys.
        prefix: begins the names of all columns that are added.
        options: keys of a job's sections `input`, `model`, `cluster` and `faults`, by their names alone, such as
            `prompt`, `choices`, `revision`, `actors` or `max_failed`; and `token_ids`.

    Raises:
        ConfigError: an option is unknown or wrong, or belongs to a job alone.
    """

    def __init__(
        self,
        model: str | Mapping[str, Any],
        *,
        pruning: Pruning | Mapping[str, Any] | None = None,
        decoding: Decoding | Mapping[str, Any] | None = None,
        engine: EngineOptions | Mapping[str, Any] | None = None,
        prefix: str = "",
        backend: Backend | None = None,
        **options: Any,
    ) -> None:
        sections = {"pruning": pruning, "decoding": decoding, "engine": engine}
        self.config = stage_config(model, sections, options)
        self.columns = added_columns(self.config, prefix)
        self._backend = backend or Backend()
        wanted_columns(self.config.input)  # a template that cannot work is refused now

    @functools.cached_property
    def fingerprint(self) -> Fingerprint:
        """What the answers depend on; its `parts` are a `job` for `AnswersSink`.

        Raises:
            ModelError: there is no such checkpoint, or it cannot be loaded.
            ConfigError: the pruning does not fit it.
        """
        checkpoint, generation = self._backend.identify(self.config), self._backend.generation(self.config)
        _say_what_is_not_applied(generation)
        return fingerprint_of(self.config, checkpoint, generation)

    def __call__(self, dataset: "ray.data.Dataset") -> "ray.data.Dataset":
        """The dataset with the answers' columns. Waits, as a job does, if the cluster has yet to bring GPUs.

        Raises:
            ConfigError: that is no dataset, or it has one of the answers' columns already.
            InputError: it is known to lack a column, or to have it in another type.
            ModelError: the checkpoint cannot be loaded.
            ClusterError: there are no such GPUs, and none will come.
        """
        if not isinstance(dataset, ray.data.Dataset):
            raise ConfigError(f"a stage takes a ray.data.Dataset, not {printable(type(dataset).__name__)}")
        self._check_known(dataset)
        fingerprint = self.fingerprint.digest
        place = find_place(self.config, is_own_ray=False)
        settings = self._settings(place.on(self.config), fingerprint)
        packed_rows = dataset.map_batches(
            pack_block,
            fn_kwargs={"added": tuple(self.columns.values())},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=_CPUS_PER_PACKING,
            udf_modifying_row_count=False,
        )
        _set_up(packed_rows.context, self.config.faults)
        cluster = self.config.cluster
        few = packed_rows.repartition(target_num_rows_per_block=cluster.rows_per_window * cluster.windows, strict=True)
        prepared = few.map_batches(
            prepare_block,
            fn_kwargs={"stage": self._preparation(), "pieces": TaskQuarantine(settings.coordinator).pieces},
            batch_size=None,
            batch_format="pyarrow",
            udf_modifying_row_count=False,
        )
        return self._answered(prepared, settings, place.gpus)

    def _settings(self, config: JobConfig, fingerprint: str) -> ActorSettings:
        return ActorSettings(
            config=config,
            backend=self._backend,
            fingerprint=fingerprint,
            input_schema=pa.schema([]),
            sampler=Sampler(output=Location.of(config.output.path), fingerprint=fingerprint, share=0.0),
            coordinator=start_coordinator(config.faults),
        )

    def _preparation(self) -> "Preparation":
        input, root = self.config.input, Location.of(self.config.input.paths[0], self.config.input.storage_options)
        load = functools.partial(self._backend.preprocessor, self.config.model)
        return Preparation(input=input, sources=Sources.of(input, root), load=load)

    def _answered(self, prepared: "ray.data.Dataset", settings: ActorSettings, gpus: float) -> "ray.data.Dataset":
        cluster = self.config.cluster
        low, high = cluster.actor_range
        # One more than the engine works on: it waits at the door.
        calls = cluster.windows + 1
        windows = prepared.repartition(target_num_rows_per_block=cluster.rows_per_window, strict=True)
        return windows.map_batches(
            StageActor,
            fn_constructor_args=(settings, self.columns),
            batch_size=None,  # a block is a window; with a number Ray could not cut off a limit before this
            batch_format="pyarrow",
            num_cpus=cluster.cpus_per_actor,
            num_gpus=gpus,
            compute=ray.data.ActorPoolStrategy(min_size=low, max_size=high, max_concurrent_calls_per_actor=calls),
            udf_modifying_row_count=False,
        )

    def _check_known(self, dataset: "ray.data.Dataset") -> None:
        """What Ray knows of a dataset before it has run."""
        schema = dataset.schema(fetch_if_missing=False)
        if schema is None:
            return
        _check_free(schema.names, tuple(self.columns.values()))
        if isinstance(schema.base_schema, pa.Schema):
            unified_schema(wanted_columns(self.config.input), {"the dataset": plain_schema(schema.base_schema)})


def _set_up(context: "ray.data.DataContext", faults: Faults) -> None:
    """Errors arrive as themselves. And Ray ends a run that moves no block for long: finding a row that kills its
    process may take longer."""
    context.raise_original_map_exception = True
    if context.execution_no_progress_timeout_s > 0:
        longest = max(context.execution_no_progress_timeout_s, longest_silence(faults))
        context.execution_no_progress_timeout_s = longest


def _say_what_is_not_applied(generation: Generation) -> None:
    if generation.not_applied:
        logger.warning("the checkpoint's generation settings that are not applied: %s", generation.shown)


def _check_free(names: Sequence[str], added: Sequence[str]) -> None:
    if taken := [name for name in added if name in names]:
        raise ConfigError(
            f"the rows have a column {taken[0]!r} already, and a stage adds one of that name: give it a prefix, such "
            "as prefix='my_', or rename the column"
        )


def pack_block(rows: pa.Table, added: Sequence[str]) -> pa.Table:
    """The first operator, plain so that Ray runs it in tasks.

    Raises:
        ConfigError: the rows have a column that is to be added.
    """
    _check_free(rows.column_names, added)
    return packed(rows)


def prepare_block(rows: pa.Table, stage: "Preparation", pieces: Pieces) -> Iterator[pa.Table]:
    """The second one: a few rows at a time, in order."""
    for first in range(0, rows.num_rows, _ROWS_PER_STEP):
        step = rows.slice(first, _ROWS_PER_STEP)
        for prepared in preprocess_block(step, stage, pieces):
            # Rows that were kept apart come first.
            is_in_order = prepared["id"].equals(step[ID_COLUMN])
            yield prepared if is_in_order else prepared.take(pc.index_in(step[ID_COLUMN], prepared["id"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """Packed rows in, as many rows of `PREPARED_SCHEMA` with the packed ones beside them out, in order."""

    input: Input
    sources: Sources
    load: Callable[[], PictureMaker] = field(repr=False)

    def __call__(self, rows: pa.Table, deadly: str | None = None) -> pa.Table:
        """With a reason why the rows' images are `deadly`, they are not touched."""
        ids, prepared, wanted = rows[ID_COLUMN].to_pylist(), [], wanted_columns(self.input)
        for table in unpacked(rows[PACKED]):
            own, ids = ids[: table.num_rows], ids[table.num_rows :]
            prepared.append(self._prepared(table, own, wanted, deadly))
        return pa.concat_tables([PREPARED_SCHEMA.empty_table(), *prepared]).append_column(PACKED, rows[PACKED])

    def _prepared(self, rows: pa.Table, ids: Sequence[str], wanted: Sequence[Wanted], deadly: str | None) -> pa.Table:
        try:
            table = planned(rows, ids, wanted)
            stage = Preprocess(input=self.input, schema=table.schema, sources=self.sources, load=self.load)
            return stage(table, deadly)
        except InputError as error:
            if rows.num_rows == 1:
                return _refused(ids[0], ValueInvalid(str(error)))
            return pa.concat_tables([self._prepared(*half, wanted, deadly) for half in halves(rows, ids)])


def _refused(id: str, error: ValueInvalid) -> pa.Table:
    row = {"id": id, "error": str(error), "error_type": error.kind, "fetch_seconds": 0.0, "decode_seconds": 0.0}
    return pa.Table.from_pylist([row], schema=PREPARED_SCHEMA)


class StageActor(EngineActor):
    """A job's engine actor, whose answers go on with all columns of their rows. `columns` says how they are called."""

    def __init__(self, settings: ActorSettings, columns: Mapping[str, str]) -> None:
        super().__init__(settings)
        self._columns = columns

    async def __call__(self, rows: pa.Table) -> AsyncIterator[pa.Table]:
        async for answers in super().__call__(rows):
            own = answers.select(list(self._columns)).rename_columns(list(self._columns.values()))
            for table in with_answers(rows[PACKED], own):
                yield table
