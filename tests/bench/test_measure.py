"""A whole comparison: what is reported was run, and nothing else is."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from star_batch.bench import measure
from star_batch.bench.comparison import Comparison
from star_batch.bench.contenders import Answering, Generate, Pass
from star_batch.bench.measure import compare, with_ratios
from star_batch.bench.picture import draw
from star_batch.bench.results import STAGES, Results, Row, label_of, surroundings, write_results
from star_batch.bench.table import tables
from star_batch.demo.dataset import write_parquet
from star_batch.errors import ConfigError, InputError, StarBatchError
from star_batch.records import Record
from tests.bench.conftest import OPTIONS


def test_there_is_a_row_for_everybody_at_every_length(results: Results) -> None:
    pruned = [f"{method} {keep}" for method in ("random", "stride", "star", "vispruner") for keep in ("8", "0.5")]
    names = ["generate 1", "generate 4", "none", *pruned]
    assert [row.label for row in results.rows] == names * 2
    assert [row.answer_tokens for row in results.rows] == [2] * 11 + [5] * 11
    assert results.skipped == {}


def test_every_row_is_filled(results: Results) -> None:
    for row in results.rows:
        assert 0 < row.slowest <= row.images_per_second <= row.fastest
        assert (row.requests, row.rounds) == (6, 2)
        assert set(row.stage_seconds) <= set(STAGES)
        assert 0 <= row.padding < 1
        assert 0 < row.occupancy <= 1
        assert row.roofline == pytest.approx(row.images_per_second / row.limit)
        assert row.peak_bytes is None or row.peak_bytes > 0
        assert row.accuracy is None


def test_pruned_rows_cost_what_was_asked_for(results: Results) -> None:
    tokens = {row.label: row.layer_tokens for row in results.rows}
    assert (tokens["none"], tokens["star 8"], tokens["star 0.5"], tokens["vispruner 0.5"]) == (64, 8, 32, 32)
    none, star = (next(r for r in results.rows if r.label == name) for name in ("none", "star 8"))
    assert star.kv_bytes_per_row < none.kv_bytes_per_row
    assert star.limit > none.limit
    assert star.most_rows is not None
    assert none.most_rows is not None
    assert star.most_rows > none.most_rows


def row(label: str, rate: float, tokens: int, template: Row) -> Row:
    method, _, batch = label.partition(" ")
    changes = {"method": method, "batch": int(batch) if batch else None, "keep": None}
    return replace(template, images_per_second=rate, answer_tokens=tokens, **changes)  # type: ignore[arg-type]


def test_ratios_are_to_the_fastest_generate_and_to_none_at_the_same_length(results: Results) -> None:
    template = results.rows[0]
    named = [("generate 1", 2.0, 3), ("generate 16", 5.0, 3), ("none", 10.0, 3), ("star", 40.0, 3), ("star", 8.0, 60)]
    rows = with_ratios([row(*values, template) for values in named])
    assert [r.over_generate for r in rows] == [0.4, 1.0, 2.0, 8.0, None]
    assert [r.over_none for r in rows] == [0.2, 0.5, 1.0, 4.0, None]


def test_who_runs_out_of_memory_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    opened_before = Generate.opened

    @contextmanager
    def opened(contender: Generate, *, is_forced: bool) -> Iterator[Answering]:
        if contender.batch == 4:
            raise torch.OutOfMemoryError
        with opened_before(contender, is_forced=is_forced) as answer:
            yield answer

    monkeypatch.setattr(Generate, "opened", opened)
    found = compare(replace(OPTIONS, methods=(), answer_tokens=(2,), rounds=1), lambda _: None)
    assert [r.label for r in found.rows] == ["generate 1", "none"]
    assert found.skipped == {"generate 4": "out of memory"}


def test_answers_of_another_length_are_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Generate._answer

    def shorter(contender: Generate, records: Sequence[Record], most: int) -> Pass:
        return answer(contender, records, most - 1)

    monkeypatch.setattr(Generate, "_answer", shorter)
    options = replace(OPTIONS, methods=(), answer_tokens=(5,), rounds=1)
    found = compare(options, lambda _: None)
    assert [r.label for r in found.rows] == ["none"]
    assert set(found.skipped.values()) == {"answers of [4] tokens; 5 were asked for"}


def test_a_method_that_does_not_fit_is_left_out_and_named() -> None:
    told: list[str] = []
    found = compare(replace(OPTIONS, methods=("fastv",), keeps=(8, 0.9), answer_tokens=(2,), rounds=1), told.append)
    assert [row.label for row in found.rows if row.method == "fastv"] == ["fastv 0.9"]
    assert list(found.skipped) == ["fastv 8"]
    assert "keep=8 cannot be met" in found.skipped["fastv 8"]
    assert f"fastv 8 is left out: {found.skipped['fastv 8']}" in told


def test_nothing_measured_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(bench: object, contender: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(measure, "_answer_forced", refuse)
    with pytest.raises(StarBatchError, match="nothing was measured: generate 1: out of memory; generate 4: out of"):
        compare(OPTIONS, lambda _: None)


def test_turns_go_there_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(measure, "_answer_forced", lambda bench, contender: None)
    monkeypatch.setattr(measure, "_rows", lambda bench, rates: [])
    compare(replace(OPTIONS, methods=()), said.append)
    turns = [line.partition(": ")[2].partition(" (")[0] for line in said if line.startswith("round")]
    assert turns == ["generate 1", "generate 4", "none", "none", "generate 4", "generate 1"]


def test_scenes_with_answers_give_accuracy() -> None:
    options = Comparison(
        model="demo",
        methods=("random",),
        keeps=(18,),
        answer_tokens=(2,),
        generate_batches=(8,),
        requests=8,
        rounds=1,
        warm_up=1,
        device="cpu",
    )
    found = compare(options, lambda _: None)
    assert [r.label for r in found.rows] == ["generate 8", "none", "random 18", "stride 18"]
    assert [r.num_references for r in found.rows] == [8, 8, 8, 8]
    generate, none = found.rows[:2]
    assert generate.accuracy == none.accuracy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": "8b"}, "shape '8b' is not known"),
        ({"model": "demo"}, "either a model"),
        ({"shape": None}, "either a model"),
        ({"methods": ("fastest",)}, "method 'fastest' is not known"),
        ({"methods": ("none",)}, "none is always measured"),
        ({"dtype": "int3"}, "dtype='int3' is not known"),
        ({"rounds": 0}, "rounds=0"),
        ({"answer_tokens": ()}, "at least one length"),
        ({"answer_tokens": (3, 0)}, "answer_tokens=0"),
        ({"answer_tokens": (3, 2, 3)}, "answer_tokens=3,2,3: give each number once"),
        ({"generate_batches": (2, 2)}, "generate_batches=2,2: give each number once"),
        ({"keeps": ()}, "keeps: give at least one"),
        ({"generate_batches": (7,)}, "needs as many requests; there are 6"),
        ({"prompt_words": (9, 8)}, "the least is above the most"),
        ({"max_rows": 0}, "max_rows=0"),
        ({"system_words": -1}, "system_words=-1"),
        ({"system_words": 9, "input": Path("rows")}, "system_words go before random prompts"),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(OPTIONS, **change)  # type: ignore[arg-type]


def test_what_all_begin_with_is_run_once_unless_told_otherwise() -> None:
    """Prompts with a beginning of 20 words: everybody answers them, and only the work differs."""
    options = replace(
        OPTIONS, system_words=20, methods=("star",), keeps=(8,), answer_tokens=(2,), generate_batches=(4,), rounds=1
    )
    shared, apart = (compare(replace(options, share_prefix=share), lambda _: None) for share in (True, False))
    assert [row.shared_tokens > 20 for row in shared.rows] == [False, True, True, True, True]
    assert [row.shared_tokens for row in apart.rows] == [0, 0, 0, 0, 0]
    for cheap, dear in zip(shared.rows[1:], apart.rows[1:], strict=True):
        assert cheap.layer_tokens == dear.layer_tokens
        assert cheap.kv_bytes_per_row == dear.kv_bytes_per_row
    titles = [column.header for column in tables(shared.rows, wide=True)[1].columns]
    assert "shared" in titles


@pytest.mark.parametrize(
    ("methods", "measured"),
    [
        (("star",), ["none", "random", "stride", "star"]),
        (("star", "stride", "star"), ["none", "random", "stride", "star"]),
        ((), ["none"]),
    ],
)
def test_a_method_is_measured_beside_its_controls(methods: tuple[str, ...], measured: list[str]) -> None:
    prunings = replace(OPTIONS, methods=methods, keeps=(8,)).prunings(64)
    assert [pruning.method for pruning in prunings] == measured
    assert {pruning.keep for pruning in prunings[1:]} <= {8}


def test_each_number_of_tokens_is_measured_once_under_a_name_of_its_own() -> None:
    prunings = replace(OPTIONS, methods=("star",), keeps=(1, 1.0, 32, 0.5, 1, 64)).prunings(64)
    labels = [label_of(each.method, each.keep) for each in prunings if each.method == "star"]
    assert labels == ["star 1", "star 1.0", "star 32"]


@pytest.mark.parametrize("keep", [65, 1.5, 0])
def test_a_keep_that_no_image_has_is_refused(keep: float) -> None:
    with pytest.raises(ConfigError, match="keep="):
        replace(OPTIONS, keeps=(keep,)).prunings(64)


def test_rows_of_a_file_are_asked_about(tmp_path: Path) -> None:
    write_parquet(tmp_path / "scenes", 8, seed=3, num_files=1)
    options = replace(
        OPTIONS,
        shape=None,
        model="demo",
        methods=(),
        answer_tokens=(2,),
        input=tmp_path / "scenes",
        reference_column="answer",
        rounds=1,
    )
    found = compare(options, lambda _: None)
    assert {r.num_references for r in found.rows} == {6}
    with pytest.raises(InputError, match="8 rows; 9 requests"):
        compare(replace(options, requests=9), lambda _: None)
    with pytest.raises(InputError, match="cannot be read: No match for FieldRef"):
        compare(replace(options, prompt_column="riddle"), lambda _: None)


def test_results_are_written_for_machines_and_people(results: Results, tmp_path: Path) -> None:
    files = write_results(tmp_path / "new", results)
    draw(results, tmp_path / "bench.png")
    values = json.loads(files[0].read_text())
    assert len(values["rows"]) == 22
    assert {"date", "command", "versions", "cpu", "device", "dtype", "matrix_flops_per_second"} <= set(values["about"])
    with files[1].open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["images_per_second"]) for r in rows] == [r.images_per_second for r in results.rows]
    assert float(rows[2]["prefill_seconds"]) == results.rows[2].stage_seconds["prefill"]
    with Image.open(tmp_path / "bench.png") as image:
        assert image.width > 1000


def test_accuracy_is_drawn_beside_speed(results: Results, tmp_path: Path) -> None:
    draw(results, tmp_path / "without.png")
    rows = tuple(replace(r, accuracy=0.5, num_references=6) for r in results.rows)
    draw(replace(results, rows=rows), tmp_path / "with.png")
    with Image.open(tmp_path / "with.png") as wide, Image.open(tmp_path / "without.png") as narrow:
        assert wide.width > narrow.width


def test_no_folder_of_the_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["bench", "compare", "--model", "/home/me/secret/llava", "--output", "./out", "--wide"]
    monkeypatch.setattr("sys.argv", ["x", *typed])
    assert surroundings()["command"] == "star-batch bench compare --model llava --output out --wide"
    monkeypatch.setattr(
        "sys.argv", ["x", "demo", "--compare", "--to=/home/me/secret/out", "--method=star:late_layer=3"]
    )
    assert surroundings("demo")["command"] == "star-batch demo --compare --to=out --method=star:late_layer=3"


def test_tables_fit_100_columns(results: Results) -> None:
    console = Console(width=200, file=io.StringIO())
    rows = [
        replace(r, accuracy=0.5, images_per_second=12345.6, limit=12345.6, shared_tokens=1000.0) for r in results.rows
    ]
    for table in tables(rows, wide=True):
        assert console.measure(table).maximum <= 100
