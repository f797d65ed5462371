"""Which rows are kept whole for the report, and that tokens lie in the picture where the model saw them."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from star_batch.commit.parts import to_parquet
from star_batch.models import load_preprocessor
from star_batch.records import Answer, Picture, Record
from star_batch.report.samples import SAMPLE_SCHEMA, Sampler, grid_of, read_samples
from star_batch.storage.location import Location

FINGERPRINT = "f"
ODD_GRIDS = [(0, 8, 8), (1, 8, 7), (None, None, None), (1, -8, -8)]


@pytest.fixture
def output(tmp_path: Path) -> Location:
    return Location.of(str(tmp_path / "out"))


def sampler(output: Location, num_samples: int = 10, num_rows: int = 10, fingerprint: str = FINGERPRINT) -> Sampler:
    return Sampler.of(output, fingerprint, num_samples=num_samples, num_rows=num_rows)


def row(id: str, picture: Picture | None = None) -> tuple[Record, Answer, str | None]:
    image = picture if picture is not None else Picture(np.zeros((1, 8, 8, 3), np.uint8), (8, 8))
    return Record(id, [image], "what?"), Answer(id=id, text="a cat", num_visual=64, kept=((1, 2), (2,))), "a dog"


def test_about_as_many_rows_as_asked_for_are_picked_whatever_their_order(output: Location) -> None:
    picks = sampler(output, 50, 20_000).picks
    picked = [f"row-{n}" for n in range(20_000) if picks(f"row-{n}")]
    assert 20 < len(picked) < 100
    assert all(map(picks, picked))
    assert not any(map(sampler(output, 0, 10).picks, picked))
    assert all(map(sampler(output, 50, 10).picks, ["a", "b"]))


def test_what_is_kept_comes_back(output: Location) -> None:
    sampler(output).keep([row("a"), row("b")])
    found = {sample.id: sample for sample in read_samples(output, FINGERPRINT)}
    assert set(found) == {"a", "b"}
    sample = found["a"]
    assert (sample.prompt, sample.answer, sample.reference) == ("what?", "a cat", "a dog")
    assert (sample.kept, sample.num_visual, sample.width) == (((1, 2), (2,)), 64, 8)
    assert sample.grid is not None
    assert (sample.grid.side, sample.grid.rows, sample.grid.columns) == (1, 8, 8)


def test_rows_that_run_again_are_shown_once(output: Location) -> None:
    for rows in (["a", "b"], ["b"], ["a", "b"]):
        sampler(output).keep([row(id) for id in rows])
    assert sorted(sample.id for sample in read_samples(output, FINGERPRINT)) == ["a", "b"]
    assert len(output.at("_metrics").files()) == 2


def test_what_is_not_this_jobs_or_cannot_be_read_is_left_out(output: Location) -> None:
    assert read_samples(output, FINGERPRINT) == []
    sampler(output, fingerprint="another job").keep([row("a")])
    sampler(output).keep([row("b")])
    output.at("_metrics", "sample-broken.parquet").write_bytes(b"PAR1")
    assert [sample.id for sample in read_samples(output, FINGERPRINT)] == ["b"]


def test_an_answer_without_indices_is_shown_as_it_is(output: Location) -> None:
    record, answer, _ = row("a")
    sampler(output).keep([(record, Answer(id="a", text=answer.text), None)])
    [sample] = read_samples(output, FINGERPRINT)
    assert (sample.kept, sample.grid, sample.reference) == ((), None, None)


def test_of_tiles_the_overview_is_shown_and_of_several_images_the_first(output: Location) -> None:
    """Where their tokens lie on it nobody can draw, so nobody does."""
    tiled = Picture(np.stack([np.full((8, 8, 3), grey, np.uint8) for grey in (200, 0, 0)]), (8, 16))
    other = Picture(np.zeros((1, 4, 4, 3), np.uint8), (4, 4))
    for images, num_visual in (([tiled], 200), ([tiled, other], 64)):
        record = Record("a", images, "what?")
        sampler(output).keep([(record, Answer(id="a", text="x", num_visual=num_visual, kept=((1,), (1,))), None)])
        [sample] = read_samples(output, FINGERPRINT)
        assert sample.grid is None
        assert np.asarray(Image.open(io.BytesIO(sample.picture))).min() > 190


@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 32), st.data())
def test_a_grid_has_as_many_cells_as_there_are_tokens(rows: int, columns: int, side: int, data: st.DataObject) -> None:
    height, width = rows * side, columns * side
    grid = grid_of(height, width, rows * columns)
    assert grid is not None
    assert (grid.side, grid.rows, grid.columns) == (side, rows, columns)


def test_a_tower_that_leaves_a_rest_of_the_picture_aside() -> None:
    """SigLIP: 384 pixels in patches of 14 are 27 x 27 tokens, and 6 pixels on the right and below are seen by none."""
    grid = grid_of(384, 384, 729)
    assert grid is not None
    assert (grid.side, grid.rows, grid.columns) == (14, 27, 27)
    assert grid_of(336, 336, 2880) is None
    assert grid_of(336, 336, 0) is None


def test_the_picture_is_what_the_model_sees_of_a_wide_image(output: Location) -> None:
    """A square is cropped from the middle: what stands left and right of it in the file is no part of any token."""
    wide = np.zeros((168, 504, 3), np.uint8)
    wide[:, :168], wide[:, 168:336], wide[:, 336:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    wide[:14, 168:182] = (255, 255, 255)
    picture = load_preprocessor("demo").picture(Image.fromarray(wide))
    sampler(output).keep([row("a", picture)])
    [sample] = read_samples(output, FINGERPRINT)
    shown = np.asarray(Image.open(io.BytesIO(sample.picture)).convert("RGB")).astype(int)
    assert shown.shape == (168, 168, 3)
    assert np.abs(shown[30:] - (0, 255, 0)).max() < 40
    assert shown[4:10, 4:10].min() > 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, None) for name in ("id", "prompt", "answer", "picture", "width", "height", "num_visual", "kept")],
        *[("kept", value) for value in ([None], [[None]], [[-5]], [[64]])],
        *[("grid", dict(zip(("side", "rows", "columns"), sizes, strict=True))) for sizes in ODD_GRIDS],
        *[("num_visual", 300_000_000), ("num_visual", -1), ("height", 0)],
    ],
)
def test_a_sample_that_cannot_be_shown_is_left_out(output: Location, name: str, value: object) -> None:
    sampler(output).keep([row("a")])
    sampler(output).keep([row("b")])
    folder = output.at("_metrics")
    [kept] = [file for file in folder.files() if pq.read_table(folder.at(file).path)["id"].to_pylist() == ["b"]]
    [values] = pq.read_table(folder.at(kept).path).to_pylist()
    pq.write_table(pa.Table.from_pylist([values | {name: value}], schema=SAMPLE_SCHEMA), folder.at(kept).path)
    assert [sample.id for sample in read_samples(output, FINGERPRINT)] == ["a"]


def test_samples_of_before_there_were_labels_on_cards(tmp_path: Path) -> None:
    """An output that was begun then goes on."""
    output = Location.of(str(tmp_path / "out"))
    table = pa.Table.from_pylist([], schema=SAMPLE_SCHEMA).drop_columns(["choices"])
    row = {"fingerprint": "f", "id": "a", "prompt": "p", "answer": "x", "picture": b"j", "width": 4, "height": 4}
    old = pa.Table.from_pylist([{**row, "num_visual": 4, "kept": []}], schema=table.schema)
    output.at("_metrics", "sample-0.parquet").write_bytes(to_parquet(old))
    [found] = read_samples(output, "f")
    assert (found.id, found.choices) == ("a", ())
