"""Numbers and texts as a person reads them, on a terminal or on a page. Knows no job."""


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


def plain(text: str) -> str:
    """Without line breaks and control characters: answers and labels may hold any."""
    return "".join(char if char.isprintable() else " " for char in text)


LONGEST_SHOWN = 300
"""Characters of a text from outside that are quoted at most."""


def printable(text: object, most: int = LONGEST_SHOWN) -> str:
    """What came from outside (ids, paths, names, options, replies), as it may be shown in an error, a log or a table.

    Control characters and line breaks are escaped (`\\x1b`, `\\n`), as are characters that change the direction of
    writing; what is longer than `most` ends with its length: `abc... (2,048 characters)`.
    """
    whole = str(text)
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in whole[:most])
    return escaped if len(whole) <= most else f"{escaped[:most]}... ({len(whole):,} characters)"
