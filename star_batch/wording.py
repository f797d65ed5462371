"""Numbers and texts as a person reads them, on a terminal or on a page. Knows no job."""

import re


def count(number: float) -> str:
    """`1,960`."""
    return f"{number:,.0f}"


def rate(value: float) -> str:
    """Three digits that say something: `1,234`, `77.0`, `0.52`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def amount(value: float) -> str:
    """With one decimal where it says something: `144`, `36.5`, `1,234`."""
    return f"{value:,.1f}".removesuffix(".0") if value < 1000 else count(value)


def percent(share: float) -> str:
    """`91.2 %`."""
    return f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


LONGEST_SHOWN = 300
"""Characters of a text from outside that are quoted at most."""

LONGEST_LINE = 2000
"""Characters of a whole line on a terminal or in a log, whatever it quotes."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 but tab and line feed, C1, what changes the direction of writing, Unicode's own line breaks, lone surrogates."""


def printable(text: object, most: int = LONGEST_SHOWN) -> str:
    """What came from outside (ids, paths, names, options, replies), as it may be shown in an error, a log or a table.

    Control characters and line breaks are escaped (`\\x1b`, `\\n`), as are characters that change the direction of
    writing; what is longer than `most` ends with its length: `abc... (2,048 characters)`.
    """
    whole = str(text)
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in whole[: most + 1])
    return escaped if len(escaped) <= most else f"{escaped[:most]}... ({len(whole):,} characters)"


def cut(text: str, most: int) -> str:
    """What is longer than `most` ends with its length, as in `printable`; nothing is escaped."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def line(text: object) -> str:
    """A whole line as it may be shown, whatever it quotes."""
    return printable(text, LONGEST_LINE)


def lines(text: str) -> str:
    """A text that has lines of its own, such as a traceback; indented, so that none passes for a line of ours."""
    return "\n".join(f"  {line(each)}" for each in text.split("\n"))


def quoted(value: object, most: int = LONGEST_SHOWN) -> str:
    """A value from outside as Python writes it, in quotes if it is text."""
    return printable(repr(value), most)


def on_page(text: str) -> str:
    """What came from outside, for a page that has its own font and line breaks: all languages, no control character."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
