"""`bench` as it is typed: a command for each thing that is measured, results to files and tables. Knows no model.

What computes is imported when it is needed: `--help` does not wait for torch.
"""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from star_batch.bench.comparison import Comparison
from star_batch.bench.shapes import SHAPES
from star_batch.bench.typed import comparison_of, values_of

Body = Callable[..., None]

DEFAULT_OUTPUT = Path("star-batch-bench")
REQUESTS, MIX_REQUESTS, MIX_SLOTS = 64, 16384, 64
NATIVE_REQUESTS, NATIVE_SLOTS = 512, 32
TABLE_WIDTH = 100


def _text(metavar: str, help: str) -> Any:
    return typer.Option(metavar=metavar, help=help)


def _count(help: str) -> Any:
    return typer.Option(min=1, metavar="N", help=help)


Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more: tracebacks.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the results only.")]
Slots = Annotated[int, _count("Decode slots.")]


class Modes(TyperGroup):
    """What `bench` measures, a command each; who still types a mode as a switch is told how it is typed now."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            ctx.fail(f"say first what to measure: {ctx.command_path} {shlex.join(_in_new_words(args))}")
        return super().parse_args(ctx, args)


def _in_new_words(args: Sequence[str]) -> list[str]:
    mode = next((name for name in ("native", "mix", "scale") if f"--{name}" in args), "compare")
    return [mode, *(arg for arg in args if arg != f"--{mode}")]


def bench_group(
    *,
    group: type[Modes] = Modes,
    command: type[TyperCommand] = TyperCommand,
    wrapped: Callable[[Body], Body] = lambda body: body,
    epilog: str | None = None,
) -> typer.Typer:
    """The commands of `bench` for a program that has its own way to say mistakes, or none."""
    app = typer.Typer(
        cls=group,
        help=_HELP,
        epilog=epilog,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for body in (compare, decode, mix, native, sampling, scale):
        app.command(cls=command, epilog=epilog)(wrapped(body))
    return app


_HELP = """
Measure it: speed and accuracy, side by side.

\b
On a CPU; accuracy; large images; full batches; sampling; the pipeline:
  star-batch bench compare --shape 94m --requests 32 --answer-tokens 16
  star-batch bench compare --model demo --requests 256 --answer-tokens 8
  star-batch bench decode
  star-batch bench mix
  star-batch bench native
  star-batch bench sampling
  star-batch bench scale --actors 1,4,16
"""


def compare(
    context: typer.Context,
    model: Annotated[str | None, _text("NAME", "Checkpoint: a folder, a hub id, or demo (with accuracy).")] = None,
    shape: Annotated[str | None, _text("NAME", f"Random weights instead: {', '.join(SHAPES)}.")] = None,
    methods: Annotated[str, _text("LIST", "Pruning methods; none, random and stride go first.")] = "star,vispruner",
    keep: Annotated[str | None, _text("LIST", "Layer-mean visual tokens (a ninth and a third).")] = None,
    answer_tokens: Annotated[str, _text("LIST", "Lengths of the answers.")] = "3,20,60",
    generate_batches: Annotated[str | None, _text("LIST", "Batches of transformers' generate (1,16,32).")] = None,
    requests: Annotated[int, _count("Requests that everybody answers.")] = REQUESTS,
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
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Our engine and transformers' generate, side by side. The same weights, the same requests.

    Everybody is warmed up and measured in turns; answers all have the same length. Ratios are to the
    fastest generate and to our engine with none; the roofline is what this device's own rates allow.

    \b
    On a CPU; with accuracy:
      star-batch bench compare --shape 94m --requests 32 --answer-tokens 16
      star-batch bench compare --model demo --requests 256 --answer-tokens 8
    """
    _compare(_console(), _teller(quiet), comparison_of(context.params), output, wide=wide)


def decode(
    width: Annotated[int, _count("Pixels of the image.")] = 4000,
    height: Annotated[int, _count("Pixels of the image.")] = 3000,
    seed: Annotated[int, _text("N", "Of the image.")] = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """What input.decode: fast saves on a large JPEG. No model."""
    from star_batch.bench.decoding import measure_decoding
    from star_batch.bench.table import decoding_table

    num_bytes, costs = measure_decoding(width, height, seed)
    out = _console()
    out.print(f"a JPEG of {width:,} x {height:,} pixels and {num_bytes:,} bytes, to a picture", soft_wrap=True)
    out.print(decoding_table(costs))


def mix(
    requests: Annotated[int, _count("Requests of mixed lengths.")] = MIX_REQUESTS,
    max_rows: Slots = MIX_SLOTS,
    seed: Annotated[int, _text("N", "Of their lengths.")] = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """How full batches of mixed lengths are; no model."""
    from star_batch.bench.mix import compare_policies, make_mix
    from star_batch.bench.table import mix_table

    out = _console()
    out.print(f"{requests:,} requests, {max_rows} decode slots", soft_wrap=True)
    out.print(mix_table(compare_policies(make_mix(requests, seed), max_rows)))
    out.print(_MIX_NOTE, soft_wrap=True)


def native(
    requests: Annotated[int, _count("Requests with images of many shapes.")] = NATIVE_REQUESTS,
    max_rows: Slots = NATIVE_SLOTS,
    seed: Annotated[int, _text("N", "Of weights, images and lengths.")] = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """The same with images of many shapes. Through the engine, with a tiny model."""
    from star_batch.bench.native import compare_natively
    from star_batch.bench.table import native_table

    _teller(quiet)("answering the same requests under every policy")
    outcomes, out = compare_natively(requests, max_rows, seed), _console()
    out.print(f"{requests:,} requests at native resolution, {max_rows} decode slots, CPU", soft_wrap=True)
    out.print(native_table(outcomes))
    out.print(_MIX_NOTE, soft_wrap=True)


_MIX_NOTE = (
    "padding: if every prefill were padded to its longest row; our prefills are packed and pay none of it."
    " Key padding: keys read in decoding that held nothing, where rows are read as one tensor."
)


def sampling(
    rows: Annotated[int, _count("Rows that decode together.")] = 128,
    vocabulary: Annotated[int, _count("Tokens to choose from.")] = 152_064,
    seed: Annotated[int, _text("N", "Of the logits.")] = 0,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """What draws cost, beside greedy decoding. No model."""
    from star_batch.bench.sampling import measure_sampling
    from star_batch.bench.table import sampling_table

    _console().print(sampling_table(measure_sampling(rows, vocabulary, seed), rows, vocabulary))


def scale(
    actors: Annotated[str, _text("LIST", "Engines side by side.")] = "1,2,4,8,16",
    actor_rate: Annotated[float, _text("R", "Rows/s of a sleeping engine.")] = 50.0,
    seconds: Annotated[float, _text("S", "Work for each engine.")] = 60.0,
    window: Annotated[int, _text("ROWS", "Rows that an engine is handed at a time.")] = 64,
    output: Annotated[Path, _text("FOLDER", "For scale.json, and for the jobs.")] = DEFAULT_OUTPUT,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """The pipeline with engines that only sleep. How far it goes on this machine; all else is real."""
    from star_batch.bench.scale import ScaleOptions, measure_scale, verdict, write_scale
    from star_batch.bench.table import scale_table

    options = ScaleOptions(
        actors=values_of(actors, int, "actors"), rate=actor_rate, seconds=seconds, rows_per_window=window
    )
    points, out = measure_scale(options, output / "scale", _teller(quiet)), _console()
    out.print(scale_table(points))
    out.print(verdict(points), soft_wrap=True)
    out.print(str(write_scale(output, points)), soft_wrap=True)


def _teller(quiet: bool) -> Callable[[str], None]:
    """Says how far it is, beside the results."""
    err = Console(markup=False, highlight=False, stderr=True)
    return (lambda _: None) if quiet else (lambda line: err.print(line, soft_wrap=True))


def _console() -> Console:
    """Wide enough for every table: a narrow terminal wraps them, which loses nothing."""
    console = Console(markup=False, highlight=False)
    console.width = max(console.width, TABLE_WIDTH)
    return console


def _compare(out: Console, say: Callable[[str], None], comparison: Comparison, output: Path, *, wide: bool) -> None:
    from star_batch.bench.measure import compare
    from star_batch.bench.picture import draw
    from star_batch.bench.results import NAMES, write_results
    from star_batch.bench.table import tables
    from star_batch.storage.results import make_ready

    make_ready(output, NAMES)
    results = compare(comparison, say)
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
