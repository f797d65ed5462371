"""A comparison as files: what was measured comes back from JSON and CSV, and stands in the picture once."""

import csv
import json
import re
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path

import pytest

from star_batch.demo.compare import Line, Measured
from star_batch.demo.picture import picture
from star_batch.demo.results import NAMES, Comparison, by_kind, write_comparison
from star_batch.errors import OutputError
from star_batch.pruning import Pruning
from star_batch.report.svg import COLOURS, apart
from star_batch.storage.results import make_ready

SVG = "{http://www.w3.org/2000/svg}"
KINDS = ("count", "colour") * 20


def measured(num_wrong: int, tokens: float) -> Measured:
    right = (False,) * num_wrong + (True,) * (40 - num_wrong)
    return Measured(pruning=Pruning(), is_correct=right, layer_tokens=tokens, seconds=2.0)


def lines(*labels: str) -> tuple[Line, ...]:
    """`none`, then each at two budgets, ever more wrong; a last one that could not be measured."""
    none = measured(0, 144.0)
    found = [Line(label="none", measured=none)]
    for keep in (36, 18):
        base = measured(2, keep)
        for number, label in enumerate(labels):
            mine = measured(2 + number, keep)
            over = None if label == "random" else mine.gain_over(base)
            found.append(Line(label=label, keep=keep, measured=mine, over_none=mine.gain_over(none), over_random=over))
    return (*found, Line(label="late", keep=18, refused="keep=18 cannot be met, by 3"))


COMPARISON = Comparison(lines=lines("random", "stride", "star"), kinds=KINDS, about={"rows": 40})


def test_accuracy_by_kind_of_question() -> None:
    found = by_kind((True, True, False, True), ("b", "a", "b", "a"))
    assert list(found) == ["a", "b"]
    assert found["a"] == {"questions": 2, "accuracy": 1.0, "standard_error": 0.0}
    assert found["b"] == pytest.approx({"questions": 2, "accuracy": 0.5, "standard_error": 0.125**0.5})


def test_json_holds_what_was_measured(tmp_path: Path) -> None:
    file = write_comparison(tmp_path / "new" / "folder", COMPARISON)[0]
    values = json.loads(file.read_text())
    assert values == COMPARISON.as_dict()
    assert values["about"] == {"rows": 40}
    none, random, _, star, *_, late = values["lines"]
    assert (none["method"], none["keep"], none["over_none"]) == ("none", None, None)
    assert (star["keep"], star["accuracy"], star["images_per_second"]) == (36, 0.9, 20.0)
    assert star["over_none"]["difference"] == pytest.approx(-0.1)
    found = [(gain["differing"], gain["is_clear"]) for gain in (star["over_none"], star["over_random"])]
    assert found == [(4, False), (2, False)]
    assert random["over_random"] is None
    assert {kind: found["accuracy"] for kind, found in star["by_kind"].items()} == {"count": 0.9, "colour": 0.9}
    assert late == {"method": "late", "keep": 18, "refused": "keep=18 cannot be met, by 3"}


def test_csv_holds_the_same(tmp_path: Path) -> None:
    with write_comparison(tmp_path, COMPARISON)[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, line in zip(rows, COMPARISON.as_dict()["lines"], strict=True):
        assert row["method"] == line["method"]
        assert row["refused"] == line.get("refused", "")
        for name in ("keep", "layer_tokens", "accuracy", "standard_error", "images_per_second"):
            assert row[name] == ("" if line.get(name) is None else str(line[name]))
        for kind in ("count", "colour") if "by_kind" in line else ():
            assert float(row[f"accuracy_{kind}"]) == line["by_kind"][kind]["accuracy"]
            assert int(row[f"questions_{kind}"]) == 20
        if gain := line.get("over_random"):
            assert (float(row["over_random"]), float(row["over_random_error"])) == (gain["difference"], gain["error"])


def texts(root: ET.Element) -> dict[str, ET.Element]:
    return {"".join(each.itertext()): each for each in root.iter(f"{SVG}text")}


def place(label: ET.Element) -> float:
    """How far down it is written."""
    return float(re.findall(r"-?[\d.]+", label.attrib["transform"])[-1])


def test_the_picture_has_a_label_for_each_method_and_controls_are_grey() -> None:
    shown = texts(ET.fromstring(picture(COMPARISON.lines)))
    assert {"none", "random", "stride", "star", "144", "36", "18"} <= set(shown)
    assert "late" not in shown
    assert "Exact answers in percent of 40 questions, ± one standard error" in shown
    for control in ("none", "random", "stride"):
        assert "var(--faint)" in shown[control].attrib["style"]
    assert "var(--first)" in shown["star"].attrib["style"]


def test_the_picture_follows_the_colour_scheme_and_has_a_ground() -> None:
    drawn = picture(COMPARISON.lines)
    assert "@media (prefers-color-scheme: dark)" in drawn
    assert "fill: var(--card)" in drawn
    assert not any(colour in drawn for colour in COLOURS.values())
    for name in COLOURS:
        assert drawn.count(f"--{name}: #") == 2, name


def test_labels_do_not_overlap_however_many_lines_end_together() -> None:
    labels = ["random", "stride", *(f"m{number:02}" for number in range(24))]
    drawn = [line for line in lines(*labels) if line.measured is not None]
    alike = [Line(label=line.label, keep=line.keep, measured=measured(4, line.keep or 144)) for line in drawn]
    shown = texts(ET.fromstring(picture(alike)))
    places = sorted(place(shown[label]) for label in ["none", *labels])
    assert min(b - a for a, b in pairwise(places)) > 11
    root = ET.fromstring(picture(alike))
    top, height = (float(root.attrib["viewBox"].split()[number]) for number in (1, 3))
    assert top < places[0] < places[-1] < top + height


@pytest.mark.parametrize("label", ["star:x=$a_{1}$", "<script>", "a&b", 'quote"'])
def test_what_a_label_says_is_text(label: str) -> None:
    assert label in texts(ET.fromstring(picture(lines("random", label))))


def test_one_budget_and_controls_alone_are_drawn_as_well() -> None:
    none, *others = lines("random", "stride")
    assert "none" in texts(ET.fromstring(picture([none])))
    assert "stride" in texts(ET.fromstring(picture([none, *others[:2]])))


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([0.5], [0.5]),
        ([0.2, 0.8], [0.2, 0.8]),
        ([0.5, 0.5, 0.5], [0.4, 0.5, 0.6]),
        ([0.0, 0.0], [0.0, 0.1]),
        ([0.95, 1.0, 1.0], [0.8, 0.9, 1.0]),
    ],
)
def test_places_are_moved_apart_and_stay_inside(places: list[float], expected: list[float]) -> None:
    assert apart(places, 0.1) == pytest.approx(expected)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: is a file; give a folder"):
        make_ready(tmp_path / "file", NAMES)
    with pytest.raises(OutputError, match="file: is a file; give a folder"):
        write_comparison(tmp_path / "file", COMPARISON)
