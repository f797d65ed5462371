"""Options that several commands have, each with one wording."""

import contextlib
import copy
import csv
import functools
import inspect
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from star_batch.cli.messages import LogFormat
from star_batch.config.kinds import KINDS
from star_batch.options import Dtype
from star_batch.pruning import METHODS
from star_batch.wording import quoted


def _amount(text: str) -> int | float:
    """A number of tokens or rows if it is written as one (`64`), a share if not (`0.25`)."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise typer.BadParameter(f"{quoted(text)} is neither a number (64) nor a share (0.25)")


Keep = Annotated[
    float | None,
    typer.Option(
        parser=_amount,
        metavar="N",
        help="Visual tokens a decoder layer sees on average: a number (64) or a share (0.25; 1.0 is all).",
    ),
]
Keeps = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N",
        help="Visual tokens a decoder layer sees on average (64), or a share of all (0.25); several with --compare.",
    ),
]
METHOD_HELP = f"Which tokens to keep: {', '.join(METHODS.loaded)}, or a plugin's."
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more: tracebacks, and what Ray says.")]
Tracebacks = Annotated[bool, typer.Option("--verbose", "-v", help="Say more: tracebacks.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
ResultsOnly = Annotated[bool, typer.Option("--quiet", "-q", help="Print the results only.")]
LogFormatName = Annotated[
    LogFormat,
    typer.Option(
        envvar="STAR_BATCH_LOG_FORMAT",
        show_envvar=False,
        show_default=False,
        metavar="FORMAT",
        help="text, or json: an object per line; or set STAR_BATCH_LOG_FORMAT.",
    ),
]


def text(metavar: str, help: str, *values: str, envvar: str | None = None) -> Any:
    """An option that takes a text of that kind, also from a variable of the environment; a shell offers `values`."""
    offered = (lambda: list(values)) if values else None
    return typer.Option(metavar=metavar, help=help, envvar=envvar, show_envvar=False, autocompletion=offered)


def column(help: str) -> Any:
    """An option that takes a column's name; a shell offers those of the input."""
    return typer.Option(metavar="COLUMN", help=help, autocompletion=_columns)


def _columns(context: typer.Context) -> list[str]:
    """Of the first local file among the inputs that are typed already."""
    import pyarrow as pa

    from star_batch.storage.parquet import open_parquet

    paths = [Path(path) for path in context.params.get("input") or ()]
    files = [file for path in paths for file in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])]
    with contextlib.suppress(IndexError, OSError, pa.ArrowException), files[0].open("rb") as file:
        return list(open_parquet(file).schema_arrow.names)
    return []


def _keys() -> list[str]:
    """Keys of the configuration, as `--set` takes them."""
    from star_batch.config.explain import known_keys

    return [f"{section}.{key}=" for section, keys in known_keys().items() for key in keys]


def several(typed: Iterable[str] | None) -> list[str] | None:
    """What was typed once or several times, with commas between or without; one in double quotes may hold a comma."""
    if not typed:
        return None
    return [each.strip() for row in csv.reader(typed, skipinitialspace=True) for each in row if each.strip()]


def amounts(typed: Iterable[str] | None, option: str) -> list[int | float] | None:
    """Numbers of tokens and shares, as `several` takes them."""
    words = several(typed)
    try:
        return None if words is None else [_amount(word) for word in words]
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message, param_hint=f"'{option}'") from None


def named(typed: Iterable[str] | None, option: str) -> dict[str, str] | None:
    """`NAME=TEXT`, one or several."""
    found: dict[str, str] = {}
    for each in typed or ():
        name, equals, text = each.partition("=")
        if not (equals and name.strip() and text.strip()):
            raise typer.BadParameter(f"{quoted(each)} is not NAME=TEXT", param_hint=f"'{option}'")
        if name.strip() in found:
            raise typer.BadParameter(f"{quoted(name.strip())} is there twice", param_hint=f"'{option}'")
        found[name.strip()] = text.strip()
    return found or None


def with_examples(examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose help ends with examples."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        command.__doc__ = f"{inspect.cleandoc(command.__doc__ or '')}\n\n{examples}"
        return command

    return decorate


def with_options_of(
    other: Callable[..., None], hidden: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command that has another's options beside its own; the values of those are found in its context.

    Those named in `hidden` it takes for the sake of who types them, and does not list, as they mean nothing to it.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        others = inspect.signature(other, eval_str=True).parameters
        borrowed = {name: _hidden(p) if name in hidden else p for name, p in others.items()}
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (borrowed | dict(own)).values()]

        @functools.wraps(command)
        def wrapped(**given: Any) -> None:
            command(**{name: given[name] for name in own})

        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapped

    return decorate


def _hidden(parameter: inspect.Parameter) -> inspect.Parameter:
    kind, option = get_args(parameter.annotation)
    unlisted = copy.copy(option)
    unlisted.hidden = True
    return parameter.replace(annotation=Annotated[kind, unlisted])


Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Any key of a job's file, its value as in YAML; repeatable.",
        autocompletion=_keys,
    ),
]
Paths = Annotated[list[str] | None, text("PATH", "File, folder or glob; repeatable.")]
Choices = Annotated[list[str] | None, text("A,B,C", "Answers to choose from: with commas between, or repeatable.")]
Questions = Annotated[list[str] | None, text("NAME=TEXT", "One of several questions for all rows; repeatable.")]
KeepColumns = Annotated[
    list[str] | None, column("Columns to carry along, or * for all without images; with commas, or repeatable.")
]
Kind = Annotated[
    str | None, text("KIND", f"What the input is: {', '.join(KINDS.loaded)}, or a plugin's.", *KINDS.loaded)
]
_PUSHGATEWAY_HELP = "Gets the numbers of the end; or set STAR_BATCH_PUSHGATEWAY."
Pushgateway = Annotated[str | None, text("URL", _PUSHGATEWAY_HELP, envvar="STAR_BATCH_PUSHGATEWAY")]
Device = Annotated[str | None, text("DEVICE", "auto (as it comes), cpu or cuda.", "auto", "cpu", "cuda")]
DtypeName = Annotated[str | None, text("DTYPE", f"{', '.join(get_args(Dtype))}.", *get_args(Dtype))]
MethodName = Annotated[
    str | None, typer.Option(metavar="METHOD", help=METHOD_HELP, autocompletion=lambda: list(METHODS))
]
MethodNames = Annotated[
    list[str] | None,
    typer.Option(
        metavar="METHOD",
        help=f"{METHOD_HELP} Options behind colons: star:late_layer=2. Several with --compare.",
        autocompletion=lambda: list(METHODS),
    ),
]
