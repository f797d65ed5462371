"""From a sample of rows and a pace to hours and a price: measured where the device is here, else by arithmetic."""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import torch

from star_batch.bench.rates import Rates
from star_batch.bench.roofline import Cost, seconds_per_image
from star_batch.commit.fingerprint import Generation
from star_batch.config import JobConfig
from star_batch.config.kinds import KINDS
from star_batch.engine.kv_cache import free_memory
from star_batch.errors import ConfigError, InputError, RecordError
from star_batch.forecast.gpus import Gpu, gpu_named
from star_batch.forecast.lengths import Lengths, Memory, Spread, num_parameters, row_bytes
from star_batch.forecast.measure import measure
from star_batch.forecast.options import ForecastOptions
from star_batch.forecast.sample import RowSample, take_sample
from star_batch.inputs.base import plan_input
from star_batch.inputs.rows import InputPlan
from star_batch.models import Checkpoint, check, choose_device, choose_dtype, family_of, load_preprocessor
from star_batch.pipeline.backend import generation
from star_batch.pruning import PruningPlan, make_plan
from star_batch.storage.location import Location

_KV_SHARE = 0.85  # of a GPU's memory without the weights: what the engine takes for keys and values


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Images per second of one engine, and how that is known; `device` in words.

    `seconds` is how long was measured; `limit` what the device's data sheet allows.
    """

    images_per_second: float
    how: Literal["measured", "roofline"]
    device: str
    is_cpu: bool
    seconds: float = 0.0
    load_seconds: float = 0.0
    limit: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a job will be like."""

    num_rows: int
    num_files: int
    schema: pa.Schema
    sample: RowSample
    failed: dict[str, int]
    lengths: Lengths
    memory: Memory
    dtype: str
    pace: Pace
    num_engines: int
    options: ForecastOptions
    generation: Generation = field(default_factory=Generation)
    num_cores: int = field(default_factory=lambda: os.cpu_count() or 1)

    @property
    def images_per_second(self) -> float:
        """Of the whole job. On CPU the images are prepared on the cores that the engine computes on."""
        pace = self.pace
        seconds = 1 / pace.images_per_second
        if pace.is_cpu:
            seconds += self.sample.seconds / self.num_cores
        return self.num_engines / seconds

    @property
    def cores_needed(self) -> float:
        """To prepare the images as fast as they are answered."""
        return self.images_per_second * self.sample.seconds

    @property
    def seconds(self) -> float:
        """From the first answer to the last."""
        return self.num_rows / self.images_per_second

    @property
    def cost(self) -> float | None:
        price = self.options.price_per_gpu_hour
        return None if price is None else price * self.num_engines * self.seconds / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """The checkpoint as far as it is known without its weights."""

    config: JobConfig
    checkpoint: Checkpoint
    hub: Any
    plan: PruningPlan
    num_visual: int
    cost: Cost

    @classmethod
    def of(cls, config: JobConfig) -> "_Subject":
        model = config.model
        checkpoint = Checkpoint(name=model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
        hub = checkpoint.config()
        family = family_of(checkpoint, hub)
        check(checkpoint)
        num_visual = family.num_visual_of(hub)
        plan = make_plan(config.pruning, hub.text_config.num_hidden_layers, num_visual, family.num_axes)
        cost = Cost.of(hub, num_visual, family.num_views_of(hub))
        return cls(config=config, checkpoint=checkpoint, hub=hub, plan=plan, num_visual=num_visual, cost=cost)

    def dtype(self, device: torch.device) -> torch.dtype:
        return choose_dtype(self.config.model.dtype, self.hub, device)

    def memory(self, lengths: Lengths, dtype: torch.dtype, room: float, *, is_cpu: bool) -> Memory:
        """What fits into `room` bytes; on CPU keys and values are kept in float32."""
        config, kv_itemsize = self.config, 4 if is_cpu else dtype.itemsize
        limit = config.engine.kv_memory_gib
        return Memory(
            weights=num_parameters(self.cost) * dtype.itemsize,
            row=row_bytes(self.cost, lengths, max_new_tokens=config.decoding.max_new_tokens, kv_itemsize=kv_itemsize),
            room=room if limit is None else limit * 2**30,
            slots=config.engine.max_rows,
        )


def make_forecast(config: JobConfig, options: ForecastOptions) -> Forecast:
    """Look at the input, prepare a sample, and measure or reckon.

    Raises:
        ConfigError: the job cannot work, or wants a GPU that is not here and is not named.
        InputError: the input cannot be read, or no sampled row can be answered.
        ModelError: the checkpoint cannot be loaded.
    """
    _check_answer_tokens(config, options)
    subject = _Subject.of(config)
    if options.gpu is None and config.model.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: there is no GPU here to measure; name the one to reckon with (--gpu)")
    plan = plan_input(config.input, _output(config))
    sample = take_sample(config, plan, options.sample_rows)
    if not sample.records:
        raise InputError(f"none of {sample.num_rows} sampled rows can be answered: {_first(sample.examples)}")
    if options.gpu is not None:
        return _reckoned(subject, plan, sample, options, gpu_named(options.gpu))
    return _measured(subject, plan, sample, options)


def _output(config: JobConfig) -> Location:
    return Location.of(config.output.path, config.output.storage_options)


def _measured(subject: _Subject, plan: InputPlan, sample: RowSample, options: ForecastOptions) -> Forecast:
    device = choose_device(subject.config.model.device)
    dtype, room = subject.dtype(device), free_memory(device, subject.config.gpu_share)
    done = measure(subject.config, sample.records, seconds=options.seconds)
    good = [answer for answer in done.answers if answer.error is None]
    refused = [answer for answer in done.answers if answer.error is not None]
    if not good:
        raise InputError(f"the engine refused every row that it was asked: {refused[0].id}: {refused[0].error}")
    lengths = Lengths.seen(good, subject.plan)
    is_cpu = device.type == "cpu"
    return _forecast(
        subject,
        plan,
        sample,
        options,
        failed=Counter(answer.error_kind or "" for answer in refused),
        lengths=lengths,
        memory=subject.memory(lengths, dtype, room, is_cpu=is_cpu),
        dtype=dtype,
        pace=Pace(
            images_per_second=done.rows_per_second,
            how="measured",
            device=f"{torch.get_num_threads()} CPU threads" if is_cpu else torch.cuda.get_device_name(device),
            is_cpu=is_cpu,
            seconds=done.seconds,
            load_seconds=done.load_seconds,
        ),
    )


def _reckoned(subject: _Subject, plan: InputPlan, sample: RowSample, options: ForecastOptions, gpu: Gpu) -> Forecast:
    dtype = subject.dtype(torch.device("cuda"))
    lengths, failed = _lengths_without_answers(subject, sample, options)
    weights = num_parameters(subject.cost) * dtype.itemsize
    memory = subject.memory(lengths, dtype, _KV_SHARE * (1e9 * gpu.memory_gb - weights), is_cpu=False)
    if not memory.rows_that_fit:
        raise ConfigError(f"gpu {options.gpu}: {weights / 1e9:.1f} GB of weights leave no room for a row; take another")
    job = lengths.job(
        rows=memory.rows, answer_tokens=lengths.answer.mean, itemsize=dtype.itemsize, kv_itemsize=dtype.itemsize
    )
    limit = 1 / seconds_per_image(subject.cost, job, _rates(gpu, dtype))
    name = str(options.gpu).upper()
    pace = Pace(images_per_second=options.efficiency * limit, how="roofline", device=name, is_cpu=False, limit=limit)
    return _forecast(
        subject, plan, sample, options, failed=failed, lengths=lengths, memory=memory, dtype=dtype, pace=pace
    )


def _check_answer_tokens(config: JobConfig, options: ForecastOptions) -> None:
    """Unless rows say for themselves how long their answers may be."""
    asked, longest = config.input, config.decoding.max_new_tokens
    is_known = KINDS[asked.kind].asks and asked.max_new_tokens_column is None and asked.decoding_column is None
    if is_known and options.answer_tokens is not None and options.answer_tokens > longest:
        raise ConfigError(f"answer_tokens={options.answer_tokens}: the job's max_new_tokens allows {longest} at most")


def _lengths_without_answers(
    subject: _Subject, sample: RowSample, options: ForecastOptions
) -> tuple[Lengths, Counter[str]]:
    """From the tokenizer and the plan; rows whose prompt is refused are counted by type."""
    model = subject.config.model
    words = load_preprocessor(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    prompts, failed, last = [], Counter[str](), ""
    for record in sample.records:
        try:
            prompt = words.prompt(record.prompt, num_images=len(record.images), raw=record.raw, system=record.system)
            prompts.append(prompt.num_tokens)
        except RecordError as error:
            failed[error.kind] += 1
            last = f"{record.id}: {error}"
    if not prompts:
        raise InputError(f"none of {sample.num_rows} sampled rows can be answered: {last}")
    longest = subject.config.decoding.max_new_tokens
    typical = options.answer_tokens if options.answer_tokens is not None else longest
    return Lengths(
        offered=subject.num_visual,
        kept=tuple(map(float, subject.plan.counts(subject.num_visual))),
        groups=subject.plan.layer_groups,
        prompt=Spread.of(prompts),
        answer=Spread(typical, 0, longest),
        is_answer_known=False,
    ), failed


def _forecast(
    subject: _Subject,
    plan: InputPlan,
    sample: RowSample,
    options: ForecastOptions,
    *,
    failed: Counter[str],
    lengths: Lengths,
    memory: Memory,
    dtype: torch.dtype,
    pace: Pace,
) -> Forecast:
    return Forecast(
        num_rows=plan.num_rows,
        num_files=plan.num_files,
        schema=plan.schema,
        sample=sample,
        failed=dict(failed + Counter(sample.failed)),
        lengths=lengths,
        memory=memory,
        dtype=str(dtype).removeprefix("torch."),
        pace=pace,
        num_engines=options.num_gpus or (1 if pace.is_cpu else subject.config.cluster.actor_range[1]),
        options=options,
        generation=generation(subject.config),
    )


def _rates(gpu: Gpu, dtype: torch.dtype) -> Rates:
    tflops = gpu.half_tflops if dtype.itemsize == 2 else gpu.single_tflops
    return Rates(flops=1e12 * tflops, bandwidth=1e9 * gpu.bandwidth_gbs)


def _first(examples: dict[str, str]) -> str:
    return next(iter(examples.values()), "no row at all")
