"""What computes, as functions that the pipeline is handed: engine, preprocessor, identity of a checkpoint.

The defaults are the real ones. They import torch when they are called, in the process that needs it, so
that a driver which refuses a bad configuration, and a test with an engine of its own, start in a moment.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from star_batch.commit.fingerprint import Generation
from star_batch.config import JobConfig, Model
from star_batch.errors import ConfigError, RecordError
from star_batch.inputs.planned_row import PictureMaker
from star_batch.metrics import EngineStats, Readings
from star_batch.options import Decoding
from star_batch.records import Answer, Record

if TYPE_CHECKING:
    from star_batch.models import Checkpoint, Preprocessor


class RecordEngine(Protocol):
    """What an actor feeds: `submit` may be called at any time and gives one answer per record, in order."""

    def submit(self, records: Sequence[Record], *, decoding: Decoding | None = None) -> Future[list[Answer]]: ...

    def stats(self) -> EngineStats: ...

    def readings(self) -> Readings: ...


def load_engine(config: JobConfig) -> RecordEngine:
    """The engine of a job, with the CPU threads that the job gives it.

    Raises:
        ModelError: the checkpoint cannot be loaded here.
        ConfigError: the pruning does not fit it.
    """
    import torch

    from star_batch.engine.engine import Engine

    model = config.model
    if model.device == "cpu" or not torch.cuda.is_available():
        torch.set_num_threads(_num_threads(config))
    return Engine.from_pretrained(
        model.name,
        pruning=config.pruning,
        revision=model.revision,
        dtype=model.dtype,
        device=model.device,
        trust_remote_code=model.trust_remote_code,
        options=dataclasses.replace(config.engine, memory_share=config.gpu_share),
    )


def _num_threads(config: JobConfig) -> int:
    """Ray sets one thread per logical CPU of an actor; engines on CPU share the machine's cores instead."""
    cluster = config.cluster
    if cluster.threads_per_actor is not None:
        return cluster.threads_per_actor
    share = (os.cpu_count() or 1) // cluster.actor_range[1]
    return max(1, share, int(cluster.cpus_per_actor))


@functools.cache
def load_preprocessor(model: Model) -> "Preprocessor":
    """The checkpoint's preprocessor, once per process; no weights.

    Raises:
        ModelError: the checkpoint has none, or it cannot be read.
    """
    from star_batch import models

    return models.load_preprocessor(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)


def identify(job: JobConfig) -> Mapping[str, str]:
    """What tells a job's checkpoint from another: a hub commit, or digests of a directory's files.

    Everything that can be told without reading weights is looked at, so that Ray does not start in vain.

    Raises:
        ModelError: there is no such checkpoint, its family is not supported, or it cannot be loaded.
        ConfigError: the pruning, `input.decode` or `input.system` does not fit it; better said now than by every actor.
    """
    from star_batch.models import check, family_of
    from star_batch.pruning import make_plan

    model = job.model
    checkpoint = _checkpoint(model)
    config = checkpoint.config()
    family = family_of(checkpoint, config)
    layers, num_visual = config.text_config.num_hidden_layers, family.num_visual_of(config)
    make_plan(job.pruning, layers, num_visual, family.num_axes)
    check(checkpoint)
    _check_input(job)
    if checkpoint.is_local:
        return digests(Path(checkpoint.source))
    return {"name": model.name, "commit": str(getattr(config, "_commit_hash", None))}


def _check_input(job: JobConfig) -> None:
    """What only some checkpoints can do; the preprocessor is loaded only for a job that asks for it."""
    if job.input.decode == "fast" and not load_preprocessor(job.model).can_shrink:
        raise ConfigError(
            "input.decode: fast is not known to work with this checkpoint's image processor: set input.decode: exact"
        )
    if job.input.system is not None:
        try:
            load_preprocessor(job.model).prompt("x", system=job.input.system)
        except RecordError as error:
            raise ConfigError(f"input.system: {error}") from None


def generation(job: JobConfig) -> Generation:
    """What the checkpoint's generation settings mean for the job's answers.

    Raises:
        ModelError: they cannot be read.
    """
    from star_batch.models import generation_of

    checkpoint = _checkpoint(job.model)
    found = generation_of(checkpoint, checkpoint.config())
    own = job.decoding.repetition_penalty
    return Generation(
        repetition_penalty=found.repetition_penalty if own is None else own, not_applied=found.not_applied
    )


def _checkpoint(model: Model) -> "Checkpoint":
    from star_batch.models import Checkpoint

    return Checkpoint(name=model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)


def digests(folder: Path) -> dict[str, str]:
    """A short digest for each file that changes what a checkpoint answers."""
    files = sorted(
        path for path in folder.iterdir() if path.suffix in (".json", ".jinja", ".safetensors", ".model", ".txt", ".py")
    )
    return {path.name: _digest(path) for path in files}


def _digest(path: Path) -> str:
    """Of the whole file; of weights, which may be huge, the header, the size, and samples of the numbers."""
    with path.open("rb") as file:
        if path.suffix != ".safetensors":
            return hashlib.sha256(file.read()).hexdigest()[:16]
        size = path.stat().st_size
        digest = hashlib.sha256(f"{size}:".encode())
        digest.update(file.read(int.from_bytes(file.read(8), "little")))
        for share in range(_NUM_SAMPLES):
            file.seek(max(0, (size - _SAMPLE_BYTES) * share // (_NUM_SAMPLES - 1)))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


_NUM_SAMPLES = 16
_SAMPLE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Functions that can be sent to another process."""

    engine: Callable[[JobConfig], RecordEngine] = load_engine
    preprocessor: Callable[[Model], PictureMaker] = load_preprocessor
    identify: Callable[[JobConfig], Mapping[str, str]] = identify
    generation: Callable[[JobConfig], Generation] = generation
