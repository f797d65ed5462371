"""Paths as shells and webdataset write many of them in one: `{00000..00099}` and `{a,b}`. Touches no file."""

import itertools
import math
import re

from star_batch.errors import ConfigError
from star_batch.wording import printable

_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_MOST = 1_000_000


def expand(path: str) -> list[str]:
    """All the paths that one with braces means; itself, if it has none.

    Raises:
        ConfigError: there are more than a million.
    """
    # Text and groups take turns.
    texts, groups = _GROUP.split(path)[::2], _GROUP.split(path)[1::2]
    if math.prod(map(_count, groups)) > _MOST:
        raise ConfigError(f"input.path: {printable(path)}: means more than {_MOST:,} files")
    chosen = itertools.product(*map(_meant, groups))
    return ["".join(itertools.chain(*zip(texts, [*each, ""], strict=True))) for each in chosen]


def _count(group: str) -> int:
    found = _RANGE.fullmatch(group)
    return abs(int(found[2]) - int(found[1])) + 1 if found else group.count(",") + 1


def _meant(group: str) -> list[str]:
    found = _RANGE.fullmatch(group)
    if found is None:
        return group.split(",") if "," in group else [f"{{{group}}}"]
    first, last = int(found[1]), int(found[2])
    step = 1 if first <= last else -1
    # As wide as the wider of the two, if one begins with a zero.
    width = max(map(len, found.groups())) if any(len(n) > 1 and n[0] == "0" for n in found.groups()) else 0
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]
