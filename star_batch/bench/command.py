"""`bench` as it is typed: options to a comparison, results to files and tables. Knows no model.

What computes is imported when it is needed: `--help` does not wait for torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from star_batch.bench.flags import BenchOptions
from star_batch.bench.shapes import SHAPES
from star_batch.errors import ConfigError

T = TypeVar("T")

DEFAULT_OUTPUT = Path("star-batch-bench")
REQUESTS, MIX_REQUESTS, MIX_SLOTS = 64, 16384, 64
NATIVE_REQUESTS, NATIVE_SLOTS = 512, 32
GENERATE_BATCHES = (1, 16, 32)
TABLE_WIDTH = 100


_NATIVE_HELP = "The same with images of many shapes, through the engine with a tiny model."


def _text(metavar: str, help: str) -> Any:
    return typer.Option(metavar=metavar, help=help)


def _count(help: str) -> Any:
    return typer.Option(min=1, metavar="N", help=help)


def bench(
    context: typer.Context,
    model: Annotated[str | None, _text("NAME", "Checkpoint: a folder, a hub id, or demo (with accuracy).")] = None,
    shape: Annotated[str | None, _text("NAME", f"Random weights instead: {', '.join(SHAPES)}.")] = None,
    methods: Annotated[str, _text("LIST", "Pruning methods to compare.")] = "star,vispruner",
    keep: Annotated[str | None, _text("LIST", "Layer-mean visual tokens (a ninth and a third).")] = None,
    answer_tokens: Annotated[str, _text("LIST", "Lengths of the answers.")] = "3,20,60",
    generate_batches: Annotated[str | None, _text("LIST", "Batches of transformers' generate (1,16,32).")] = None,
    requests: Annotated[int | None, _count("Requests that everybody answers (64; --mix 16,384; --native 512).")] = None,
    prompt_words: Annotated[str, _text("A:B", "Words of a random prompt.")] = "8:48",
    system_words: Annotated[int, _text("N", "Words that all begin with, before the image.")] = 0,
    share_prefix: Annotated[bool, typer.Option(help="Run once what all begin with.")] = True,
    input: Annotated[Path | None, _text("PATH", "Parquet with an image column to ask about instead.")] = None,
    prompt_column: Annotated[str, _text("COLUMN", "Its questions.")] = "question",
    reference_column: Annotated[str | None, _text("COLUMN", "Its right answers, for accuracy.")] = None,
    rounds: Annotated[int, _text("N", "Times that everybody is measured, in turns.")] = 3,
    warm_up: Annotated[int | None, _text("N", "Requests before the clock starts (all; 8 on CPU).")] = None,
    dtype: Annotated[str, _text("DTYPE", "auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, _text("DEVICE", "auto, cpu, cuda or cuda:N.")] = "auto",
    max_rows: Annotated[int | None, _count("Decode slots of our engine (128, or all requests).")] = None,
    kv_memory_gib: Annotated[float | None, _text("GIB", "Its memory for keys and values (what is free).")] = None,
    seed: Annotated[int, _text("N", "Of weights, images and prompts.")] = 0,
    output: Annotated[Path, _text("FOLDER", "For bench.json, bench.csv, bench.png.")] = DEFAULT_OUTPUT,
    wide: Annotated[bool, typer.Option("--wide", help="A second table: stages, memory, padding.")] = False,
    mix: Annotated[bool, typer.Option("--mix", help="How full batches of mixed lengths are; no model.")] = False,
    native: Annotated[bool, typer.Option("--native", help=_NATIVE_HELP)] = False,
    scale: Annotated[bool, typer.Option("--scale", help="The pipeline with engines that only sleep.")] = False,
    actors: Annotated[str, _text("LIST", "Engines side by side, with --scale.")] = "1,2,4,8,16",
    actor_rate: Annotated[float, _text("R", "Rows/s of a sleeping engine, with --scale.")] = 50.0,
    seconds: Annotated[float, _text("S", "Work for each engine, with --scale.")] = 60.0,
    window: Annotated[int, _text("ROWS", "Rows that an engine is handed at a time, with --scale.")] = 64,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more: tracebacks.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the results only.")] = False,
) -> None:
    """Measure our engine and transformers' generate side by side: the same weights, the same requests.

    Everybody is warmed up and measured in turns; answers all have the same length. Ratios are to the
    fastest generate and to our engine with none; the roofline is what this device's own rates allow.

    \b
    On a CPU; with accuracy; how full batches are; how far the pipeline goes:
      star-batch bench --shape 94m --requests 32 --answer-tokens 16
      star-batch bench --model demo --requests 256 --answer-tokens 8
      star-batch bench --mix
      star-batch bench --native
      star-batch bench --scale --actors 1,4,16
    """
    err = Console(markup=False, highlight=False, stderr=True)
    say: Callable[[str], None] = (lambda _: None) if quiet else (lambda line: err.print(line, soft_wrap=True))
    if native:
        _native(_console(), say, requests or NATIVE_REQUESTS, max_rows or NATIVE_SLOTS, seed)
    elif mix:
        _mix(_console(), requests or MIX_REQUESTS, max_rows or MIX_SLOTS, seed)
    elif scale:
        _scale(_console(), say, context.params, output)
    else:
        _compare(_console(), say, _options(context.params), output, wide=wide)


def _options(given: Mapping[str, Any]) -> BenchOptions:
    """What was typed, as a comparison."""
    requests = given["requests"] or REQUESTS
    parsed = {
        "methods": _list(given["methods"], str, "methods"),
        "keeps": None if given["keep"] is None else _list(given["keep"], _amount, "keep"),
        "answer_tokens": _list(given["answer_tokens"], int, "answer-tokens"),
        "generate_batches": _batches(given["generate_batches"], requests),
        "requests": requests,
        "prompt_words": _range(given["prompt_words"]),
    }
    names = {field.name for field in fields(BenchOptions)}
    return BenchOptions(**{name: value for name, value in given.items() if name in names} | parsed)


def _console() -> Console:
    """Wide enough for every table: a narrow terminal wraps them, which loses nothing."""
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, TABLE_WIDTH)
    return console


def _compare(out: Console, say: Callable[[str], None], options: BenchOptions, output: Path, *, wide: bool) -> None:
    from star_batch.bench.measure import compare
    from star_batch.bench.picture import draw
    from star_batch.bench.results import write_results
    from star_batch.bench.table import tables

    results = compare(options, say)
    written = write_results(output, results)
    if results.rows:
        draw(results, output / "bench.png")
        written.append(output / "bench.png")
    about = results.about
    rates = f"{about['matrix_flops_per_second'] / 1e12:.3g} TFLOP/s, {about['copy_bytes_per_second'] / 1e9:.3g} GB/s"
    out.print(f"{about['model']}, {about['dtype']}, {about['device']}: {rates}", soft_wrap=True)
    for table in tables(results.rows, wide=wide):
        out.print()
        out.print(table)
    for who, why in results.skipped.items():
        out.print(f"{who} did not run: {why}", soft_wrap=True)
    out.print()
    for file in written:
        out.print(str(file), soft_wrap=True)


def _mix(out: Console, num_requests: int, slots: int, seed: int) -> None:
    from star_batch.bench.mix import compare_policies, make_mix
    from star_batch.bench.table import mix_table

    out.print(f"{num_requests:,} requests, {slots} decode slots", soft_wrap=True)
    out.print(mix_table(compare_policies(make_mix(num_requests, seed), slots)))
    out.print(_MIX_NOTE, soft_wrap=True)


def _native(out: Console, say: Callable[[str], None], num_requests: int, slots: int, seed: int) -> None:
    from star_batch.bench.native import compare_natively
    from star_batch.bench.table import native_table

    say("answering the same requests under every policy")
    outcomes = compare_natively(num_requests, slots, seed)
    out.print(f"{num_requests:,} requests at native resolution, {slots} decode slots, CPU", soft_wrap=True)
    out.print(native_table(outcomes))
    out.print(_MIX_NOTE, soft_wrap=True)


_MIX_NOTE = (
    "padding: if every prefill were padded to its longest row; our prefills are packed and pay none of it."
    " Key padding: keys read in decoding that held nothing, where rows are read as one tensor."
)


def _scale(out: Console, say: Callable[[str], None], given: Mapping[str, Any], output: Path) -> None:
    from star_batch.bench.scale import ScaleOptions, measure_scale, verdict, write_scale
    from star_batch.bench.table import scale_table

    options = ScaleOptions(
        actors=_list(given["actors"], int, "actors"),
        rate=given["actor_rate"],
        seconds=given["seconds"],
        rows_per_window=given["window"],
    )
    points = measure_scale(options, output / "scale", say)
    out.print(scale_table(points))
    out.print(verdict(points), soft_wrap=True)
    out.print(str(write_scale(output, points)), soft_wrap=True)


def _batches(text: str | None, num_requests: int) -> tuple[int, ...]:
    if text is not None:
        return _list(text, int, "generate-batches")
    return tuple(batch for batch in GENERATE_BATCHES if batch <= num_requests)


def _list(text: str, kind: Callable[[str], T], name: str) -> tuple[T, ...]:
    """`64,192` and the like; nothing is an empty list."""
    try:
        return tuple(kind(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"--{name} {text!r}: give values with commas between them") from None


def _amount(text: str) -> int | float:
    """A number of tokens if it is written as one (`64`), a share if not (`0.25`)."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _range(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    try:
        return int(least), int(most or least)
    except ValueError:
        raise ConfigError(f"--prompt-words {text!r}: give the least and the most, such as 8:48") from None
