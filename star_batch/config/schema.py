"""A job: its sections, checked whole before anything is loaded. Knows no YAML, no flag and no Ray.

Storage options and the Pushgateway's URL may hold secrets and appear in no message.
"""

from typing import Any, Literal, Self, TypeAlias, get_args

from pydantic import Field, model_validator

from star_batch.config.cluster import Cluster, Faults, Metrics
from star_batch.config.defaults import RETRY_SECONDS
from star_batch.config.input import Input
from star_batch.config.section import Section
from star_batch.options import Decoding, Dtype, EngineOptions
from star_batch.pruning import Pruning

ExportFormat: TypeAlias = Literal["jsonl", "csv", "webdataset", "dataset"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)


class Output(Section):
    """Where the answers go. A file and its marker are a commit: all of its rows become visible, or none.

    `rows_per_file`, `seconds_per_file`: answers wait for each other until a file is full, but not where the engines
    would need longer than that to fill one.
    `retry_failed`: rows that failed in an earlier run are answered again.
    `samples`: of about so many rows the picture and the tokens kept are stored, for the report's gallery.
    `export`: forms in which the answers are written once more when the job is finished.
    `lease_seconds`: a run that was not heard of for so long may be succeeded by another.
    """

    path: str = Field(min_length=1)
    overwrite: bool = False
    retry_failed: bool = False
    export: tuple[ExportFormat, ...] = ()
    lease_seconds: float = Field(default=60.0, ge=1.0, le=3600.0)
    token_ids: bool = False
    samples: int = Field(default=48, ge=0, le=1000)
    rows_per_file: int = Field(default=512, ge=1)
    seconds_per_file: float = Field(default=60.0, gt=0.0)
    retry_seconds: float = Field(default=RETRY_SECONDS, ge=0.0)
    storage_options: dict[str, Any] = Field(default_factory=dict, repr=False, exclude=True)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.overwrite and self.retry_failed:
            raise ValueError("overwrite deletes what retry_failed would keep: give one of them")
        return self


class Model(Section):
    """Which checkpoint: a local directory, a hub id, or `demo`. Ray chooses the accelerator of each actor.

    `device`: `cuda` asks for GPUs, on a cluster waits for them; `auto` takes those that are there, or else the CPU.
    """

    name: str = Field(min_length=1)
    revision: str | None = None
    dtype: Dtype = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    trust_remote_code: bool = False


class JobConfig(Section):
    """One batch job."""

    input: Input
    output: Output
    model: Model
    pruning: Pruning = Pruning()
    decoding: Decoding = Decoding()
    engine: EngineOptions = EngineOptions()
    cluster: Cluster = Cluster()
    faults: Faults = Faults()
    metrics: Metrics = Metrics()

    @property
    def gpu_share(self) -> float | None:
        """The part of a GPU's memory that is one engine's, where several share it."""
        gpus = self.cluster.gpus_per_actor
        return self.engine.memory_share or (gpus if gpus and gpus < 1.0 else None)

    @model_validator(mode="after")
    def _output_is_not_input(self) -> Self:
        if self.output.path.lower().startswith("hf://"):
            raise ValueError("output.path: answers cannot be written to the Hugging Face Hub; upload them at the end")
        if self.output.path.rstrip("/") in {path.rstrip("/") for path in self.input.paths}:
            raise ValueError("output.path is the input: the next run would read the answers as records")
        return self
