"""A row as a card: the picture as the model saw it, and which of its tokens each stage dropped. Knows no file."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from star_batch.records import matches

MAX_CARDS = 12
MAX_WRONG = 4
_LAST, _FIRST = 0.68, 0.9  # opacity of what the last late stage dropped, and of what the first of several did


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Square tokens of `side` pixels, in `rows` of `columns`, from the upper left."""

    side: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the labels that a row might have got."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One answered row. `picture` is a JPEG of the `width` x `height` pixels that the model was given.

    `kept` are indices of visual tokens, one rising sequence per layer group; empty where nobody has said.
    `choices` are the likeliest of its labels, if it was to get one.
    """

    id: str
    prompt: str
    answer: str
    reference: str | None
    picture: bytes
    width: int
    height: int
    num_visual: int
    kept: tuple[tuple[int, ...], ...]
    grid: Grid | None
    choices: tuple[Choice, ...] = ()

    @property
    def is_wrong(self) -> bool:
        return self.reference is not None and not matches(self.answer, self.reference)

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return f"data:image/jpeg;base64,{b64encode(self.picture).decode()}"

    @property
    def dropped_early(self) -> str:
        """Tokens that no layer saw, as an SVG path in units of tokens."""
        return self._path(set(range(self.num_visual)) - set(self.kept[0])) if self.kept else ""

    @property
    def dropped_late(self) -> str:
        """Tokens that only the first layers saw."""
        return "".join(path for _, path in self.late_stages)

    @property
    def late_stages(self) -> list[tuple[float, str]]:
        """What each late stage dropped, as a path, with an opacity: the earlier it went, the less is seen of it."""
        paths = [self._path({*was} - {*stays}) for was, stays in pairwise(self.kept)]
        step = (_FIRST - _LAST) / max(1, len(paths) - 1)
        return [(_LAST + step * number, path) for number, path in zip(reversed(range(len(paths))), paths, strict=True)]

    @property
    def outline(self) -> str:
        """Around what was kept to the end, as an SVG path in units of tokens."""
        return "".join(_edges(set(self.kept[-1]), self.grid)) if self.kept and self.grid is not None else ""

    @property
    def counts(self) -> tuple[int, ...]:
        """Tokens offered, then kept after each stage that dropped some."""
        numbers = (self.num_visual, *map(len, self.kept))
        return tuple(number for number, _ in groupby(numbers))

    def _path(self, tokens: set[int]) -> str:
        return "".join(_runs(tokens, self.grid.columns)) if self.grid is not None else ""


def _runs(tokens: Iterable[int], columns: int) -> Iterable[str]:
    """A rectangle for each run of tokens that lie side by side in a row."""
    ordered = sorted(tokens)
    places = [(token // columns, token - number, token % columns) for number, token in enumerate(ordered)]
    for (row, _), run in groupby(places, key=lambda place: place[:2]):
        run_columns = [column for _, _, column in run]
        yield f"M{run_columns[0]} {row}h{len(run_columns)}v1h-{len(run_columns)}z"


def _edges(tokens: set[int], grid: Grid) -> Iterable[str]:
    """A line wherever a token of the set has a neighbour, or the picture's end, that is none of it."""
    cells = {divmod(token, grid.columns) for token in tokens}
    for row, column in sorted(cells):
        for is_there, line in (
            ((row - 1, column) in cells, f"M{column} {row}h1"),
            ((row + 1, column) in cells, f"M{column} {row + 1}h1"),
            ((row, column - 1) in cells, f"M{column} {row}v1"),
            ((row, column + 1) in cells, f"M{column + 1} {row}v1"),
        ):
            if not is_there:
                yield line


def choose(samples: Sequence[Sample]) -> list[Sample]:
    """The cards of a page, wrong answers first but not only those."""
    wrong = [sample for sample in samples if sample.is_wrong][:MAX_WRONG]
    right = [sample for sample in samples if not sample.is_wrong]
    return [*wrong, *right][:MAX_CARDS]
