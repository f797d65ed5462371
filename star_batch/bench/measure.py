"""Everybody answers everything, in turns: warm-up, rounds there and back, medians. Knows no file and no table.

Contenders share one set of weights and are opened one at a time, each on a thread of its own, so that each has the
memory and the processors to itself. A row is made only of passes that ran to their end and were checked.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from star_batch.bench.comparison import Comparison
from star_batch.bench.contenders import Contender, Generate, Ours, Pass, release_memory
from star_batch.bench.memory import peak_bytes, reset_peak
from star_batch.bench.rates import Rates, measure_rates
from star_batch.bench.results import Results, Row, label_of, surroundings
from star_batch.bench.roofline import Cost, Job, kv_bytes_per_row, seconds_per_image
from star_batch.bench.subject import Subject, make_subject
from star_batch.bench.workload import Workload, make_workload
from star_batch.engine import kv_cache
from star_batch.engine.kv_cache import cache_dtype
from star_batch.engine.threads import on_passing_thread
from star_batch.errors import ConfigError, StarBatchError
from star_batch.pruning import make_plan

Say = Callable[[str], None]

_CPU_WARM_UP = 8
_BOUNDLESS = 2**30


@dataclass(slots=True)
class _Measured:
    """What one contender did, by answer length: a pass for every round."""

    passes: dict[int, list[Pass]] = field(default_factory=dict)
    peaks: dict[int, int | None] = field(default_factory=dict)
    texts: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """One comparison: its model, its requests, its contenders, and what is known of them so far."""

    comparison: Comparison
    subject: Subject
    workload: Workload
    say: Say
    contenders: list[Generate | Ours] = field(default_factory=list)
    measured: dict[str, _Measured] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.subject.device

    @property
    def remaining(self) -> list[Generate | Ours]:
        return [contender for contender in self.contenders if contender.label not in self.skipped]

    def leave_out(self, label: str, why: str) -> None:
        self.skipped[label] = why
        self.say(f"{label} is left out: {why}")


def compare(comparison: Comparison, say: Say = print) -> Results:
    """Measure what `comparison` asks for; `say` gets a line about each step.

    Raises:
        ConfigError, ModelError, InputError: nothing was measured.
        StarBatchError: nobody gave what was asked for.
    """
    say(f"loading {comparison.model or comparison.shape}")
    subject = on_passing_thread(lambda: _subject(comparison))
    workload = make_workload(comparison, subject.preprocessor)
    bench = _Bench(comparison=comparison, subject=subject, workload=workload, say=say)
    on_passing_thread(lambda: _enter_contenders(bench))
    say("measuring the device")
    rates = on_passing_thread(lambda: measure_rates(subject.device, subject.dtype))
    if workload.references is not None:
        _in_turn(bench, "accuracy", bench.remaining, _answer_freely)
    for number in range(comparison.rounds):
        there = bench.remaining
        order = there if number % 2 == 0 else there[::-1]
        _in_turn(bench, f"round {number + 1} of {comparison.rounds}", order, _answer_forced)
    if not bench.remaining:
        raise StarBatchError(
            f"nothing was measured: {'; '.join(f'{who}: {why}' for who, why in bench.skipped.items())}"
        )
    return Results(about=_about(bench, rates), rows=tuple(_rows(bench, rates)), skipped=bench.skipped)


def _subject(comparison: Comparison) -> Subject:
    return make_subject(
        model=comparison.model,
        shape=comparison.shape,
        dtype=comparison.dtype,
        device=comparison.device,
        seed=comparison.seed,
    )


def _enter_contenders(bench: _Bench) -> None:
    """A pruning that does not fit the model is left out, and the others are compared."""
    comparison, subject = bench.comparison, bench.subject
    adapter, num_visual = subject.adapter(), subject.num_visual
    engine = comparison.engine_options(comparison.requests)
    bench.contenders.extend(Generate(subject, batch) for batch in comparison.generate_batches)
    for pruning in comparison.prunings(num_visual):
        try:
            plan = make_plan(pruning, adapter.num_layers, num_visual)
            bench.contenders.append(Ours(subject, adapter, pruning, plan, engine))
        except ConfigError as error:
            bench.leave_out(label_of(pruning.method, pruning.keep), str(error))


def _in_turn(
    bench: _Bench, what: str, order: Sequence[Generate | Ours], work: Callable[[_Bench, Generate | Ours], None]
) -> None:
    for number, contender in enumerate(order, start=1):
        bench.say(f"{what}: {contender.label} ({number} of {len(order)})")
        release_memory()
        try:
            on_passing_thread(partial(work, bench, contender))
        except (torch.OutOfMemoryError, StarBatchError) as error:
            why = "out of memory" if isinstance(error, torch.OutOfMemoryError) else str(error)
            bench.leave_out(contender.label, why)


def _answer_freely(bench: _Bench, contender: Contender) -> None:
    with contender.opened(is_forced=False) as answer:
        texts = answer(bench.workload.records, bench.comparison.free_tokens).texts
    _check_count(len(texts), len(bench.workload.records))
    bench.measured.setdefault(contender.label, _Measured()).texts = texts


def _answer_forced(bench: _Bench, contender: Contender) -> None:
    measured = bench.measured.setdefault(contender.label, _Measured())
    records = bench.workload.records
    with contender.opened(is_forced=True) as answer:
        if num_warm_up := _num_warm_up(bench):
            for tokens in bench.comparison.answer_tokens:  # each may make batches of other sizes
                answer(records[:num_warm_up], tokens)
        for tokens in bench.comparison.answer_tokens:
            reset_peak(bench.device)
            done = answer(records, tokens)
            measured.peaks[tokens] = peak_bytes(bench.device)
            _check_count(len(done.outputs), len(records))
            _check_lengths(done, tokens)
            measured.passes.setdefault(tokens, []).append(done)


def _num_warm_up(bench: _Bench) -> int:
    chosen = bench.comparison.warm_up
    if chosen is not None:
        return chosen
    return len(bench.workload.records) if bench.device.type == "cuda" else _CPU_WARM_UP


def _check_count(found: int, wanted: int) -> None:
    if found != wanted:
        raise StarBatchError(f"{found} answers to {wanted} requests")


def _check_lengths(done: Pass, tokens: int) -> None:
    lengths = set(map(len, done.outputs))
    if lengths != {tokens}:
        raise StarBatchError(f"answers of {sorted(lengths)} tokens; {tokens} were asked for")


def _rows(bench: _Bench, rates: Rates) -> list[Row]:
    release_memory()
    rows = [
        _row(bench, contender, tokens, rates)
        for tokens in bench.comparison.answer_tokens
        for contender in bench.remaining
    ]
    return with_ratios(rows)


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Every row beside the fastest `generate` and our `none` at the same answer length."""
    return [
        replace(
            row,
            over_generate=_ratio(row, [r for r in rows if r.method == "generate"]),
            over_none=_ratio(row, [r for r in rows if r.method == "none"]),
        )
        for row in rows
    ]


def _ratio(row: Row, others: Sequence[Row]) -> float | None:
    rates = [other.images_per_second for other in others if other.answer_tokens == row.answer_tokens]
    return row.images_per_second / max(rates) if rates else None


def _row(bench: _Bench, contender: Generate | Ours, tokens: int, rates: Rates) -> Row:
    measured, pruning = bench.measured[contender.label], contender.pruning
    passes = sorted(measured.passes[tokens], key=lambda done: done.seconds)
    speeds = [len(bench.workload.records) / done.seconds for done in passes]
    middle = passes[len(passes) // 2]
    job = replace(_job(bench, contender, tokens), shared_tokens=middle.shared_tokens)
    cost = Cost.of(bench.subject.config, bench.subject.num_visual)
    limit = 1 / seconds_per_image(cost, job, rates)
    accuracy = bench.workload.accuracy(measured.texts) if measured.texts is not None else None
    return Row(
        method=pruning.method if pruning is not None else "generate",
        batch=contender.batch,
        keep=pruning.keep if pruning is not None else None,
        answer_tokens=tokens,
        requests=len(bench.workload.records),
        rounds=len(passes),
        images_per_second=median(speeds),
        slowest=speeds[-1],
        fastest=speeds[0],
        layer_tokens=middle.layer_tokens,
        kv_bytes_per_row=kv_bytes_per_row(cost, job),
        rows_per_step=middle.rows_per_step,
        most_rows=_most_rows(contender, job) if isinstance(contender, Ours) else None,
        padding=middle.padding,
        occupancy=middle.occupancy,
        stage_seconds=middle.stage_seconds | {"other": middle.seconds - sum(middle.stage_seconds.values())},
        limit=limit,
        roofline=median(speeds) / limit,
        peak_bytes=measured.peaks[tokens],
        accuracy=accuracy,
        num_references=len(bench.workload.references or ()) if accuracy is not None else 0,
        shared_tokens=middle.shared_tokens,
    )


def _job(bench: _Bench, contender: Generate | Ours, tokens: int) -> Job:
    """The requests under a contender's pruning; as many rows together as it may take."""
    subject = bench.subject
    prompts = [subject.preprocessor.prompt(r.prompt, raw=r.raw).num_tokens for r in bench.workload.records]
    num_layers: int = subject.config.text_config.num_hidden_layers
    if isinstance(contender, Ours):
        plan = contender.plan
        counts = plan.counts(subject.num_visual)
        visual = [count for group, count in zip(plan.layer_groups, counts, strict=True) for _ in group]
        rows, kv_dtype = min(contender.options.max_rows, len(prompts)), cache_dtype(contender.adapter)
    else:
        visual, rows, kv_dtype = [subject.num_visual] * num_layers, contender.batch, subject.dtype
    return Job(
        tokens_per_layer=[[text + count for count in visual] for text in prompts],
        kept=visual[0],
        answer_tokens=tokens,
        rows=rows,
        itemsize=subject.dtype.itemsize,
        kv_itemsize=kv_dtype.itemsize,
    )


def _most_rows(contender: Ours, job: Job) -> int:
    """Rows as long as the longest request that fit into the memory there is for keys and values."""
    plan, page_size = contender.plan, contender.options.page_size
    longest = max(job.tokens_per_layer, key=sum)
    lengths = [longest[group[0]] + job.answer_tokens - 1 for group in plan.layer_groups]
    pages = kv_cache.num_pages(
        contender.adapter,
        plan.layer_groups,
        lengths,
        page_size=page_size,
        max_rows=_BOUNDLESS,
        memory_gib=contender.options.kv_memory_gib,
    )
    return min(count // -(-length // page_size) for count, length in zip(pages, lengths, strict=True))


def _about(bench: _Bench, rates: Rates) -> dict[str, Any]:
    comparison = bench.comparison
    return surroundings() | {
        "model": _shown_name(bench.subject.name),
        **_about_device(bench.device),
        "dtype": str(bench.subject.dtype).removeprefix("torch."),
        "matrix_flops_per_second": rates.flops,
        "copy_bytes_per_second": rates.bandwidth,
        "visual_tokens": bench.subject.num_visual,
        "engine": asdict(comparison.engine_options(comparison.requests)),
        "requests": len(bench.workload.records),
        "has_references": bench.workload.references is not None,
    }


def _about_device(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"device": device.type, "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(device)
    return {"device": properties.name, "device_bytes": properties.total_memory, "cuda": torch.version.cuda}


def _shown_name(name: str) -> str:
    """A hub id as it is; of a folder, its own name."""
    return Path(name).name if Path(name).is_dir() else name
