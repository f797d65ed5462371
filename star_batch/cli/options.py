"""Options that several commands have, each with one wording."""

from typing import Annotated, Any, get_args

import typer

from star_batch.options import Dtype, Method


def _amount(text: str) -> int | float:
    """A number of tokens or rows if it is written as one (`64`), a share if not (`0.25`)."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise typer.BadParameter(f"{text!r} is neither a number (64) nor a share (0.25)")


Keep = Annotated[
    float | None,
    typer.Option(
        parser=_amount,
        metavar="N",
        help="Visual tokens a decoder layer sees on average: a number (64) or a share (0.25; 1.0 is all).",
    ),
]
MaxFailed = Annotated[
    float | None,
    typer.Option(parser=_amount, metavar="N", help="Stop when more rows fail: a number (100) or a share (0.05)."),
]
METHOD_HELP = f"Which tokens to keep: {', '.join(get_args(Method))}."
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Let Ray speak; show tracebacks.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Device = Annotated[str | None, typer.Option(metavar="DEVICE", help="auto (as it comes), cpu or cuda.")]
DtypeName = Annotated[str | None, typer.Option(metavar="DTYPE", help=f"{', '.join(get_args(Dtype))}.")]


def text(metavar: str, help: str, envvar: str | None = None) -> Any:
    """An option that takes a text of that kind, also from a variable of the environment."""
    return typer.Option(metavar=metavar, help=help, envvar=envvar)
