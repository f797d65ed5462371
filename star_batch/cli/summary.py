"""The numbers of a finished job, as a person reads them. Knows no output and no command."""

from collections.abc import Iterator, Mapping, Sequence

from star_batch.cli import screen
from star_batch.cli.screen import short_name, show_numbers, show_table
from star_batch.metrics import ONE_QUESTION, Summary
from star_batch.wording import duration, percent

MAX_CONFUSED = 10
"""Labels up to which their table is shown; `summary.json` has it for any number."""


def show_summary(summary: Summary) -> None:
    """The numbers of a finished job; where there are few labels, how they go with the references."""
    show_numbers(_summary_rows(summary))
    for question, table in summary.confusion.items():
        labels = sorted({*table, *(label for row in table.values() for label in row)})
        if len(labels) <= MAX_CONFUSED:
            _show_confusion(question, labels, table)


def _show_confusion(question: str, labels: Sequence[str], table: Mapping[str, Mapping[str, int]]) -> None:
    title = "reference" if question == ONE_QUESTION else f"{short_name(question)}: reference"
    screen.out.print(f"\nRows by {title} (down) and label (across)", style="bold", soft_wrap=True)
    shown = [[name, *(f"{row.get(label, 0):,}" for label in labels)] for name, row in table.items()]
    show_table(["", *labels], shown)


def _summary_rows(summary: Summary) -> Iterator[tuple[str, str, str]]:
    yield "rows", f"{summary.rows:,}", ""
    yield "answered", f"{summary.answered:,}", _counts(summary.labels)
    yield "failed", f"{summary.failed:,}", _counts(summary.failed_by_type)
    if summary.accuracy is not None:
        note = f"of {summary.num_references:,} references; a failed row counts as wrong"
        yield "accuracy", percent(summary.accuracy), note
    for question, share in summary.agreement.items():
        about = "labels" if question == ONE_QUESTION else f"{short_name(question)}: labels"
        yield "agreement", percent(share), f"{about} that are the reference"
    whole, working = duration(summary.wall_seconds), duration(summary.working_seconds)
    note = f"while engines were at work, {working} of {whole}" if summary.working_seconds else f"in {whole}"
    yield "images/s", f"{summary.images_per_second:,.1f}", note
    if summary.mean_visual_tokens is not None:
        yield "visual tokens", f"{summary.mean_visual_tokens:,.0f}", _kept(summary)
    yield "tokens/s", f"{summary.input_tokens_per_second:,.0f}", "into the language model"
    yield "", f"{summary.output_tokens_per_second:,.0f}", "generated"
    if busy := {stage: seconds for stage, seconds in summary.stage_seconds.items() if seconds >= 0.05}:
        stages = sorted(busy, key=lambda stage: -busy[stage])
        yield (
            "busy",
            duration(sum(busy.values())),
            ", ".join(f"{stage.replace('_', ' ')} {duration(busy[stage])}" for stage in stages),
        )


def _kept(summary: Summary) -> str:
    kept = ", then ".join(f"{mean:,.0f}" for mean in summary.mean_kept_tokens)
    mean = "" if summary.mean_layer_tokens is None else f"; {summary.mean_layer_tokens:,.1f} per layer"
    return f"per image, of which kept {kept}{mean}" if kept else "per image"


def _counts(counts: dict[str, int], most: int = 8) -> str:
    shown = [f"{short_name(name)} {count:,}" for name, count in list(counts.items())[:most]]
    return ", ".join([*shown, "..."] if len(counts) > most else shown)
