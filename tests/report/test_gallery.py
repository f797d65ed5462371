"""What is shaded is what was dropped: paths read back give the tokens that went in."""

import re

from hypothesis import given
from hypothesis import strategies as st

from star_batch.report.gallery import MAX_CARDS, MAX_WRONG, Grid, choose
from tests.report.samples import sample

RUN = re.compile(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z")
EDGE = re.compile(r"M(\d+) (\d+)([hv])1")


def tokens_in(path: str, columns: int) -> list[int]:
    assert RUN.sub("", path) == ""
    return [
        int(row) * columns + int(column) + step
        for column, row, length, back in RUN.findall(path)
        for step in range(int(length))
        if length == back
    ]


@st.composite
def stages(draw: st.DrawFn) -> tuple[Grid, tuple[tuple[int, ...], ...]]:
    rows, columns = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    early = draw(st.sets(st.integers(0, rows * columns - 1), min_size=1))
    late = draw(st.sets(st.sampled_from(sorted(early)), min_size=1))
    return Grid(side=14, rows=rows, columns=columns), (tuple(sorted(early)), tuple(sorted(late)))


@given(stages())
def test_each_token_is_shaded_once_by_the_stage_that_dropped_it(
    given: tuple[Grid, tuple[tuple[int, ...], ...]],
) -> None:
    grid, kept = given
    card = sample(grid=grid, kept=kept, num_visual=grid.rows * grid.columns)
    early, late = tokens_in(card.dropped_early, grid.columns), tokens_in(card.dropped_late, grid.columns)
    assert sorted([*early, *late, *kept[1]]) == list(range(grid.rows * grid.columns))
    assert set(early).isdisjoint(kept[0])
    assert set(late) <= set(kept[0])


def test_every_late_stage_has_a_shade_of_its_own() -> None:
    card = sample(grid=Grid(side=14, rows=2, columns=4), num_visual=8, kept=((0, 1, 2, 3, 4), (0, 1, 2), (1,)))
    (first, one), (second, two) = card.late_stages
    assert first > second == 0.68
    assert (tokens_in(one, 4), tokens_in(two, 4)) == ([3, 4], [0, 2])
    assert [opacity for opacity, _ in sample().late_stages] == [0.68] * (len(sample().kept) - 1)


@given(stages())
def test_the_outline_lies_between_kept_and_dropped(given: tuple[Grid, tuple[tuple[int, ...], ...]]) -> None:
    grid, kept = given
    card = sample(grid=grid, kept=kept, num_visual=grid.rows * grid.columns)
    cells = {divmod(token, grid.columns) for token in kept[1]}
    edges = [(int(row), int(column), way) for column, row, way in EDGE.findall(card.outline)]
    assert len(set(edges)) == len(edges)
    for row, column, way in edges:
        before = (row - 1, column) if way == "h" else (row, column - 1)
        assert (before in cells) != ((row, column) in cells)
    assert len(edges) == sum(
        neighbour not in cells
        for row, column in cells
        for neighbour in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
    )


def test_a_stage_that_drops_nothing_is_not_counted() -> None:
    everything = tuple(range(64))
    assert sample(kept=(everything,)).counts == (64,)
    assert sample(kept=(everything, (1, 2))).counts == (64, 2)
    assert sample(kept=()).counts == (64,)


def test_without_a_grid_or_indices_nothing_is_shaded() -> None:
    for card in (sample(grid=None), sample(kept=())):
        assert (card.dropped_early, card.dropped_late, card.outline) == ("", "", "")


def test_wrong_answers_come_first_and_are_not_all_there_is() -> None:
    wrong = [sample(f"wrong-{n}", answer="no") for n in range(20)]
    right = [sample(f"right-{n}") for n in range(20)]
    cards = choose([*right, *wrong])
    assert [card.is_wrong for card in cards] == [True] * MAX_WRONG + [False] * (MAX_CARDS - MAX_WRONG)
    assert choose([*right, *wrong]) == cards
    assert choose([]) == []
