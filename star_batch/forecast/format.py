"""A forecast as lines of names, values and remarks, each in at most 80 columns or so. Knows no terminal."""

from collections.abc import Iterator
from statistics import median

import pyarrow as pa

from star_batch.forecast.forecast import Forecast
from star_batch.forecast.lengths import Spread
from star_batch.wording import amount, count, duration, percent, printable, rate

Line = tuple[str, str, str]

_LONGEST_NAME = 80
_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def lines(forecast: Forecast) -> Iterator[Line]:
    """What there is to do, what it is like, how fast it goes, what it costs."""
    yield from _input(forecast)
    yield from _lengths(forecast)
    yield from _memory(forecast)
    yield from _pace(forecast)
    yield from _total(forecast)


def _input(forecast: Forecast) -> Iterator[Line]:
    sample = forecast.sample
    yield "rows", count(forecast.num_rows), f"in {_some(forecast.num_files, 'file')}"
    yield (
        "columns",
        "",
        ", ".join(f"{printable(field.name, _LONGEST_NAME)} ({_type(field)})" for field in forecast.schema),
    )
    failed = ", ".join(f"{kind} {number:,}" for kind, number in forecast.failed.items())
    num_failed = sum(forecast.failed.values())
    yield "sample", count(sample.num_rows), f"{percent(num_failed / sample.num_rows)} bad: {failed}" if failed else ""
    yield from (("", "", f"{kind}: {example}") for kind, example in sample.examples.items())
    if sample.sizes:
        widths, heights = zip(*sample.sizes, strict=True)
        extremes = f"from {min(widths)} x {min(heights)} to {max(widths)} x {max(heights)}"
        is_mixed = len(set(sample.sizes)) > 1
        yield "images", f"{median(widths):.0f} x {median(heights):.0f}", f"pixels{', ' + extremes if is_mixed else ''}"
    yield "preparing", f"{1e3 * sample.seconds:.1f} ms", "of a core for each image"


def _lengths(forecast: Forecast) -> Iterator[Line]:
    lengths = forecast.lengths
    kept = ", ".join(
        f"{amount(number)} in layers {group[0]} to {group[-1]}"
        for number, group in zip(lengths.kept, lengths.groups, strict=True)
    )
    yield "visual tokens", amount(lengths.offered), f"of which {kept}; {amount(lengths.layer_mean)} per layer"
    yield "prompt tokens", amount(lengths.prompt.mean), _range(lengths.prompt)
    if lengths.is_answer_known:
        yield "answer tokens", amount(lengths.answer.mean), _range(lengths.answer)
    else:
        shown = "assumed; at most" if lengths.answer.mean < lengths.answer.most else "the most that is allowed:"
        yield "answer tokens", amount(lengths.answer.mean), f"{shown} {lengths.answer.most:,}"
    yield from _generation(forecast)


def _generation(forecast: Forecast) -> Iterator[Line]:
    """What the checkpoint's settings do to its answers, where that is not nothing."""
    penalty, left_out = forecast.generation.repetition_penalty, forecast.generation.not_applied
    if penalty != 1.0:
        yield "repetition", f"{penalty:g}", "is the penalty on tokens of the prompt and of the answer so far"
    for name, value in left_out.items():
        yield "not applied", "", f"{name}={value}, of the checkpoint's generation settings"


def _memory(forecast: Forecast) -> Iterator[Line]:
    memory = forecast.memory
    yield "weights", _bytes(memory.weights), forecast.dtype
    yield "keys and values", _bytes(memory.row), "for each row"
    fits = f"{memory.rows_that_fit:,} would fit into {_bytes(memory.room)}"
    yield "rows together", count(memory.rows), fits if memory.rows_that_fit >= memory.rows else f"only; {fits}"


def _pace(forecast: Forecast) -> Iterator[Line]:
    pace, engines = forecast.pace, forecast.num_engines
    if pace.how == "measured":
        note = f"measured here for {duration(pace.seconds)}: {pace.device}"
    else:
        share, limit = percent(forecast.options.efficiency), rate(pace.limit or 0.0)
        note = f"reckoned: {share} of the roofline of {pace.device}, {limit}"
    yield "images/s", rate(pace.images_per_second), f"of one engine, {note}"
    if pace.is_cpu:
        yield (
            "",
            rate(forecast.images_per_second),
            f"with preparing on the same {forecast.num_cores} cores{_times(engines)}",
        )
    else:
        cores = f"keeps {forecast.cores_needed:.1f} cores busy preparing images"
        yield "", rate(forecast.images_per_second), f"of {_some(engines, 'GPU')} together; {cores}"


def _times(engines: int) -> str:
    return "" if engines == 1 else f", {engines:,} such machines"


def _total(forecast: Forecast) -> Iterator[Line]:
    loading = f", and loading the model ({duration(forecast.pace.load_seconds)} here)"
    yield "time", duration(forecast.seconds), f"after the start of Ray{loading if forecast.pace.load_seconds else ''}"
    if forecast.cost is not None:
        each = "GPU" if not forecast.pace.is_cpu else "machine"
        price = forecast.options.price_per_gpu_hour
        yield (
            "cost",
            _price(forecast.cost),
            f"{_some(forecast.num_engines, each)} at {price:,.2f} an hour",
        )


def _some(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _type(field: pa.Field) -> str:
    return str(field.type).removeprefix("large_")


def _price(cost: float) -> str:
    return f"{cost:,.2f}" if cost >= 1 else f"{cost:.2g}"


def _range(spread: Spread) -> str:
    return f"from {spread.least:,} to {spread.most:,}"


def _bytes(number: float) -> str:
    return next((f"{number / unit:.1f} {name}" for unit, name in _UNITS if number >= unit), f"{number:.0f} B")
