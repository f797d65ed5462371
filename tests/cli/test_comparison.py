"""`demo --compare`: what is typed, printed and refused; nothing is measured here."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from star_batch.cli import comparison
from star_batch.demo.compare import Measured, held_out
from star_batch.errors import ConfigError, OutputError
from star_batch.pruning import CONTROLS, METHODS, Pruning
from tests.cli.jobs import Pipeline, invoke


def measured(pruning: Pruning, is_correct: list[bool]) -> Measured:
    return Measured(pruning=pruning, is_correct=tuple(is_correct), layer_tokens=36.0, seconds=2.0)


Asking = list[tuple[Pruning, list[dict[str, Any]]]]


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> Asking:
    """What is measured; `none` is right always, all others once less, and a late layer 3 cannot be had."""
    seen: Asking = []

    def measure(pruning: Pruning, rows: list[dict[str, Any]], **_: str) -> Measured:
        seen.append((pruning, rows))
        if getattr(pruning, "late_layer", None) == 3:
            raise ConfigError("late_layer=3: this model is not that deep")
        return measured(pruning, [True] * (len(rows) - 1) + [pruning.method == "none"])

    monkeypatch.setattr(comparison, "measure", measure)
    return seen


def test_compare_prints_a_line_per_method_controls_first(asking: Asking) -> None:
    result = invoke("demo", "--compare", "--rows", "10", "--keep", "36", "--method", "star")
    assert result.exit_code == 0, result.stderr
    methods = ("random", "stride", "star")
    assert [pruning for pruning, _ in asking] == [Pruning(), *(Pruning(method=name, keep=36) for name in methods)]
    assert all(rows == held_out(10) for _, rows in asking)
    lines = [line.split() for line in result.stdout.splitlines()]
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert lines[1:6] == [
        ["none", "36.0", "100.0", "±", "0.0", "5.0"],
        [],
        ["random", "36.0", "90.0", "±", "9.5", "5.0", "-10.0", "±", "9.5"],
        ["stride", "36.0", "90.0", "±", "9.5", "5.0", "-10.0", "±", "9.5", "+0.0", "±", "0.0"],
        ["star", "36.0", "90.0", "±", "9.5", "5.0", "-10.0", "±", "9.5", "+0.0", "±", "0.0"],
    ]
    assert "1 of 4: none, keep all" in result.stderr


@pytest.mark.parametrize("typed", [["--keep", "36,18", "--method", "star,vispruner"], ["--keep=36", "--keep=18"]])
def test_compare_takes_several_methods_and_budgets(asking: Asking, typed: list[str]) -> None:
    assert invoke("demo", "--compare", "--rows", "2", *typed).exit_code == 0
    methods = [name for name in METHODS if name != "none"] if "--method" not in typed else [*CONTROLS[1:], *ASKED]
    found = [(pruning.keep, pruning.method) for pruning, _ in asking]
    assert found == [(None, "none"), *((keep, method) for keep in (36, 18) for method in methods)]


ASKED = ("star", "vispruner")


def test_what_cannot_be_had_is_a_line_that_says_why(asking: Asking) -> None:
    result = invoke("demo", "--compare", "--rows", "2", "--keep", "36", "--method", "star:late_layer=3,star")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert ["star:late_layer=3", "36", "not", "possible"] in [line.split() for line in lines]
    assert "star:late_layer=3 was not measured at 36: late_layer=3: this model is not that deep" in lines


def test_a_clear_difference_is_marked(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(pruning: Pruning, rows: list[dict[str, Any]], **_: str) -> Measured:
        return measured(pruning, [pruning.method != "random" or number % 2 == 0 for number in range(len(rows))])

    monkeypatch.setattr(comparison, "measure", measure)
    result = invoke("demo", "--compare", "--rows", "20", "--keep", "36", "--method", "star")
    random, stride, star = result.stdout.splitlines()[3:6]
    assert random.rstrip().endswith("* -50.0 ± 11.2")
    assert stride.split()[-7:] == star.split()[-7:] == ["+0.0", "±", "0.0", "*", "+50.0", "±", "11.2"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--compare", "--method", "best"], "method='best' is not known"),
        (["--compare", "--method", "star:late_layer=0"], "late_layer=0: give a layer number"),
        (["--compare", "--keep", ""], "--keep: give a number of visual tokens"),
        (["--compare", "--method", " , "], "--method: give a method"),
        (["--compare", "--keep-mass", "0.5", "--method", "star,best"], "method='best' is not known"),
        (["--compare", "--keep-mass", "0.5", "--method", "star,none"], "method='none' keeps every token"),
        (["--compare", "--keep-mass", "1.5"], "keep_mass=1.5: give a share"),
        (["--compare", "--keep", "few"], "'few' is neither a number (64) nor a share (0.25)"),
        (["--compare", "--keep", "200"], "keep=200: an image has 144 visual tokens here"),
        (["--method", "star,vispruner"], "--method takes one value here; several are for --compare"),
        (["--keep", "36", "--keep", "18"], "--keep takes one value here; several are for --compare"),
        (["--to", "there"], "--to goes with --compare, and without --keep-mass"),
        (["--compare", "--keep-mass", "0.6", "--to", "there"], "--to goes with --compare, and without --keep-mass"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_measured(
    asking: Asking, job: Pipeline, typed: list[str], message: str
) -> None:
    result = invoke("demo", *typed)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert (asking, job.configs) == ([], [])


def test_compare_writes_where_it_was_told_to(asking: Asking, tmp_path: Path) -> None:
    result = invoke("demo", "--compare", "--rows", "4", "--keep", "36", "--to", str(tmp_path / "new"))
    assert result.exit_code == 0, result.stderr
    files = [tmp_path / "new" / name for name in ("compare.json", "compare.csv", "compare.svg")]
    assert [line for line in result.stdout.splitlines() if line.startswith("/")] == list(map(str, files))
    about = json.loads(files[0].read_text())["about"]
    assert (about["rows"], about["keeps"], about["model"]) == (4, [36], "demo")


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_measured(asking: Asking, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = invoke("demo", "--compare", "--rows", "4", "--to", str(tmp_path / "file"))
    assert (result.exit_code, asking) == (OutputError.exit_code, [])


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("file", "is a file; give a folder"),
        ("taken", "compare.csv: cannot be written; choose another folder"),
        ("s3://bucket/there", "s3:/bucket/there: these results are written to a local folder only"),
    ],
)
def test_where_a_comparison_cannot_be_written(asking: Asking, tmp_path: Path, to: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "compare.csv").mkdir(parents=True)
    typed = to if ":" in to else str(tmp_path / to)
    result = invoke("demo", "--compare", "--rows", "4", "--to", typed)
    assert (result.exit_code, asking) == (OutputError.exit_code, [])
    assert message in " ".join(result.stderr.split())


def test_a_budget_of_its_own_that_does_not_fit_costs_no_other_line(asking: Asking) -> None:
    methods = "star,star:late_layer=3,star,vispruner"
    result = invoke("demo", "--compare", "--rows", "4", "--keep-mass", "0.5", "--method", methods)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["star,", "star", "vispruner,", "vispruner"]
    assert "star:late_layer=3 was not measured: late_layer=3: this model is not that deep" in lines
    assert "Over fixed: points above the line below it" in " ".join(result.stdout.split())
    alone = invoke("demo", "--compare", "--rows", "4", "--keep-mass", "0.5", "--method", "star:late_layer=3")
    assert (alone.exit_code, "not that deep" in alone.stderr) == (ConfigError.exit_code, True)


def test_few_questions_are_called_few(asking: Asking) -> None:
    few, enough = (
        invoke("demo", "--compare", "--rows", rows, "--keep", "36", "--method", "star") for rows in ["1", "100"]
    )
    assert "So few questions say little" in " ".join(few.stdout.split())
    assert "*" not in few.stdout.split("Questions:")[0], "one question says nothing for certain"
    assert "So few" not in enough.stdout


def test_compare_sets_budgets_that_follow_the_image_against_fixed_ones_of_the_same_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Pruning] = []

    def measure(pruning: Pruning, given: list[dict[str, Any]], **_: str) -> Measured:
        seen.append(pruning)
        result = measured(pruning, [True] * 9 + [pruning.keep_mass is not None])
        return replace(result, layer_tokens=35.7 if pruning.keep_mass else 36.0)

    monkeypatch.setattr(comparison, "measure", measure)
    result = invoke("demo", "--compare", "--rows", "10", "--keep-mass", "0.6")
    assert result.exit_code == 0, result.stderr
    methods = ("vispruner", "star")
    assert seen == [Pruning(method=m, **budget) for m in methods for budget in ({"keep_mass": 0.6}, {"keep": 36})]
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["vispruner,", "mass", "0.6", "35.7", "100.0", "±", "0.0", "5.0", "+10.0", "±", "9.5"]
    assert lines[2].split() == ["vispruner", "36.0", "90.0", "±", "9.5", "5.0"]


@pytest.mark.parametrize("more", [[], ["--compare", "--keep", "36"]])
def test_keep_mass_belongs_to_compare_and_takes_the_place_of_keep(more: list[str]) -> None:
    result = invoke("demo", "--keep-mass", "0.6", *more)
    assert result.exit_code == 2
    assert "--keep-mass goes with --compare, and without --keep" in result.stderr
