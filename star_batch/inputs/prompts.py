"""A prompt made of a row's columns: `What colour is the {thing}?`. Plain names only, nothing is evaluated."""

import math
import string
from collections.abc import Mapping
from dataclasses import dataclass

from star_batch.errors import ConfigError, PromptMissing
from star_batch.wording import printable, quoted


@dataclass(frozen=True, slots=True)
class Template:
    """Text pieces with a column's name after each but the last."""

    pieces: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """`{column}` is a place for a value, `{{` and `}}` are braces.

        Raises:
            ConfigError: a brace without its partner, or anything but a column's name between two.
        """
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ConfigError(f"prompt: {printable(error)}; write {{{{ and }}}} for braces") from None
        return cls(tuple((literal, _plain(*place)) for literal, *place in parsed))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for _, column in self.pieces if column is not None))

    def render(self, row: Mapping[str, object]) -> str:
        """The prompt of one row.

        Raises:
            PromptMissing: a column is null or NaN.
        """
        return "".join(
            literal + (_text(column, row[column]) if column is not None else "") for literal, column in self.pieces
        )


def _plain(name: str | None, spec: str | None, conversion: str | None) -> str | None:
    if name is None:
        return None
    if not name or spec or conversion or any(mark in name for mark in ".[]"):
        raise ConfigError(f"prompt: only plain column names can stand in braces, not {{{printable(name)}}}")
    return name


def _text(column: str, value: object) -> str:
    if is_missing(value):
        raise PromptMissing(f"column {quoted(column)} is {'null' if value is None else 'NaN'}")
    return str(value)


def is_missing(value: object) -> bool:
    """Null, or NaN: what pandas writes for it into columns of numbers."""
    return value is None or (isinstance(value, float) and math.isnan(value))
