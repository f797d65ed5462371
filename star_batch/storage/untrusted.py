"""What Arrow data from outside may not do: bring types that run code, or raise what nobody expects.

An extension type is rebuilt by a Python class, and some of these unpickle. So a schema is looked at with the names of
its extension types hidden. Those made of plain numbers and text are read as what they are stored as, all others are
refused. Knows no file.
"""

import contextlib
import traceback
from collections.abc import Iterator

import pyarrow as pa

NAME = b"ARROW:extension:name"
_HIDDEN_NAME = b"ARROW-extension-name"
_LONGEST_NAME = 100

PLAIN = frozenset(
    {
        *("arrow.json", "arrow.uuid", "arrow.bool8", "arrow.opaque"),
        *("arrow.fixed_shape_tensor", "arrow.variable_shape_tensor", "arrow.timestamp_with_offset"),
        *("ray.data.arrow_tensor", "ray.data.arrow_tensor_v2", "ray.data.arrow_variable_shaped_tensor"),
        *("pandas.period", "pandas.interval"),
        *(f"datasets.features.features.Array{n}DExtensionType" for n in range(2, 6)),
    }
)
"""Extension types that are read as what they are stored as: numbers, text, and lists of them."""


class ExtensionRefused(pa.ArrowTypeError):  # type: ignore[misc]  # pyarrow is not typed
    """A column has an extension type that is not read."""


@contextlib.contextmanager
def decoding() -> Iterator[None]:
    """What Arrow raises of bytes that are broken is an `ArrowException`; what a file system raises stays as it is.

    Arrow makes a plain `OSError`, without a number, of pages that cannot be unpacked, and Python fails at names that
    are no text and at types that are nested too deep.
    """
    try:
        yield
    except pa.ArrowException:
        raise
    except OSError as error:
        if type(error) is not OSError or error.errno is not None or not _is_arrows(error):
            raise
        raise pa.ArrowInvalid(str(error)) from None
    except (UnicodeDecodeError, OverflowError, RecursionError) as error:
        raise pa.ArrowInvalid(f"{type(error).__name__}: {error}") from None


def _is_arrows(error: OSError) -> bool:
    """Whether Arrow itself has raised it, and no file to which it only called back."""
    raiser = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        raiser = str(frame.f_globals.get("__name__", ""))
    return raiser.partition(".")[0] == "pyarrow"


def decoded(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, under `decoding`."""
    with decoding():
        yield from batches


def hidden(message: bytes) -> bytes:
    """A schema message of the same length that names no extension type."""
    # The same length, so that nothing else has to change.
    return message.replace(NAME, _HIDDEN_NAME)


def refuse_extensions(message: bytes) -> None:
    """Look at a schema message without resolving any type of it.

    Raises:
        ExtensionRefused: a column, or a part of one, has an extension type that is not plain.
    """
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(hidden(message)))
    except pa.ArrowException:
        if NAME in message:
            raise ExtensionRefused("its Arrow schema is broken, and names extension types") from None
        return
    for column, name in (found for field in schema for found in _extensions(field, field.name)):
        if name not in PLAIN:
            raise ExtensionRefused(
                f"column {column[:_LONGEST_NAME]!r} has the extension type {name[:_LONGEST_NAME]!r}, which is not "
                "read, as such types can run code; write it as plain bytes, text, numbers or lists"
            )


def _extensions(field: pa.Field, path: str) -> Iterator[tuple[str, str]]:
    """Every field at or below this one that is of an extension type: where, and the type's name."""
    if name := (field.metadata or {}).get(_HIDDEN_NAME):
        yield path, name.decode("utf-8", "backslashreplace")
    for child in _children(field.type):
        yield from _extensions(child, f"{path}.{child.name}")


def _children(type: pa.DataType) -> list[pa.Field]:
    if pa.types.is_dictionary(type):
        return _children(type.value_type)
    return [type.field(index) for index in range(type.num_fields)]
