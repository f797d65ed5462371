from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from star_batch.commit.fingerprint import Fingerprint, Generation, fingerprint_of
from star_batch.config import JobConfig, parse_config
from star_batch.errors import ConfigError
from star_batch.pipeline.backend import digests, identify
from star_batch.pipeline.provenance import provenance
from tests.pipeline.samples import job

CHECKPOINT = {"config.json": "abc"}


def digest(checkpoint: dict[str, str] = CHECKPOINT, **sections: Any) -> str:
    return fingerprint_of(job("in", "out", **sections), checkpoint).digest


@pytest.mark.parametrize(
    "sections",
    [
        {"input": {"prompt": "another {question}"}},
        {"input": {"keep_columns": ["question"]}},
        {"input": {"decode": "fast"}},
        {"input": {"system": "be brief"}},
        {"output": {"token_ids": True}},
        {"model": {"name": "fake", "dtype": "float16"}},
        {"pruning": {"method": "star", "keep": 0.5}},
        {"decoding": {"max_new_tokens": 3}},
    ],
)
def test_what_changes_answers_changes_the_fingerprint(sections: dict[str, Any]) -> None:
    assert digest(**sections) != digest()


@pytest.mark.parametrize(
    "sections",
    [
        {"input": {"path": "elsewhere", "limit": 3, "storage_options": {"key": "x"}}},
        {"output": {"path": "elsewhere", "rows_per_file": 7}},
        {"cluster": {"actors": 3}},
        {"engine": {"max_rows": 3}},
    ],
)
def test_where_and_how_the_work_is_done_does_not(sections: dict[str, Any]) -> None:
    assert digest(**sections) == digest()


def test_outputs_from_before_there_were_these_keys_go_on() -> None:
    assert not {"input.decode", "input.system"} & fingerprint_of(job("in", "out"), CHECKPOINT).parts.keys()


def test_another_checkpoint_changes_it() -> None:
    assert digest({"config.json": "abd"}) != digest()


def test_differences_are_named() -> None:
    there, here = Fingerprint({"a": 1, "b": None}), Fingerprint({"a": 2, "b": None, "c": "x"})
    assert there.differences(here) == ["a: 1 there, 2 here", 'c: nothing there, "x" here']


def test_digests_see_a_changed_weight_and_ignore_other_files(tmp_path: Path) -> None:
    weights = np.arange(1000, dtype=np.float32)
    save_file({"w": weights}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    before = digests(tmp_path)
    (tmp_path / "README.md").write_text("hello")
    assert digests(tmp_path) == before
    save_file({"w": weights + 1}, tmp_path / "model.safetensors")
    after = digests(tmp_path)
    assert after["config.json"] == before["config.json"]
    assert after["model.safetensors"] != before["model.safetensors"]


def test_a_plan_that_does_not_fit_the_model_stops_before_anything_starts() -> None:
    config = parse_config(
        {
            "input": {"path": "x", "prompt": "?"},
            "output": "y",
            "model": "demo",
            "pruning": {"method": "star", "keep": 36, "late_layer": 6},
        },
        "job.yaml",
    )
    with pytest.raises(ConfigError, match="late_layer=6: this model has 6 layers"):
        identify(config)


def test_a_repetition_penalty_counts_wherever_it_comes_from() -> None:
    """Where there is none, outputs go on that were written when nobody had heard of one."""
    plain, own = Generation(), Generation(repetition_penalty=1.05, not_applied={"num_beams": "4"})

    def with_penalty(value: float | None, generation: Generation | None) -> Fingerprint:
        return fingerprint_of(job("in", "out", decoding={"repetition_penalty": value}), CHECKPOINT, generation)

    before = fingerprint_of(job("in", "out"), CHECKPOINT)
    assert not any("repetition" in name for name in before.parts)
    assert with_penalty(None, plain) == with_penalty(1.0, plain) == with_penalty(1.0, own) == before
    assert with_penalty(None, own) == with_penalty(1.05, plain) != before
    assert before.differences(with_penalty(None, own)) == ["decoding.repetition_penalty: nothing there, 1.05 here"]


def test_the_record_of_a_run_names_what_is_not_applied() -> None:
    generation = Generation(repetition_penalty=1.05, not_applied={"num_beams": "4"})
    record = provenance(job("in", "out"), Fingerprint({}), 3, generation)
    assert record["generation"] == {"repetition_penalty": 1.05, "not_applied": {"num_beams": "4"}}


def test_a_prefix_counts_where_a_kept_column_gets_it() -> None:
    """Outputs go on that were written when there was none."""
    kept = {"prompt": "another {question}", "keep_columns": ["question"]}
    assert digest(input=kept | {"keep_prefix": "x_"}) == digest(input=kept)
    assert not any("prefix" in name for name in fingerprint_of(job("in", "out", input=kept), CHECKPOINT).parts)
    named = kept | {"keep_columns": ["label"]}
    assert digest(input=named | {"keep_prefix": "x_"}) != digest(input=named)


def _pruned(section: dict[str, Any] | None) -> JobConfig:
    values: dict[str, Any] = {"input": {"path": "x", "prompt": "?"}, "output": "y", "model": "demo"}
    return parse_config(values if section is None else values | {"pruning": section})


@pytest.mark.parametrize(
    ("section", "digest"),
    [
        (None, "2e3c921c7554d99f2e768e84377b2a43"),
        ({}, "2e3c921c7554d99f2e768e84377b2a43"),
        ({"method": "none", "positions": "compact"}, "e68287f6f6cfda706b01f74692598571"),
        ({"method": "random", "keep": 0.25}, "eda61a61d56fa4aaf3b2e433144cd394"),
        ({"method": "random", "keep": 64, "seed": 7}, "2a7de5651f18b0703d2fa372663c53fc"),
        (
            {"method": "random", "keep": 3, "late_layer": None, "early_scores": "encoder", "important_ratio": 0.5},
            "9cb31a5051268469cfd6c83e65f26692",
        ),
        ({"method": "stride", "keep": 36}, "9c8cadd865c198f8ba14a7826e3991ec"),
        ({"method": "stride", "keep_mass": 0.5, "keep_least": 4, "keep_most": 0.5}, "ef7f674bbe577b407083f86eceab34d5"),
        ({"method": "star", "keep": 128}, "8e8926f27ce5d24e2cef38aa3ef43483"),
        ({"method": "star", "keep": 1.0, "seed": 0}, "507d200bdde1b5493dad20dc12b75355"),
        (
            {"method": "star", "keep": 64, "late_layer": 16, "early_scores": "features"},
            "0ccbc2891981b37f6b4ed3646e7c92dc",
        ),
        (
            {"method": "star", "early_keep": 200, "late_keep": 0.125, "positions": "compact"},
            "cd5cc9f25a9eef6940a2f16f8f39a3e3",
        ),
        ({"method": "star", "keep": 128, "early_keep": 160}, "c129eb9498d84c0039387b6dc83779bb"),
        ({"method": "star", "keep_mass": 0.9, "late_layer": 3}, "1f2a7ec0b002a9c506f652f461258bf7"),
        ({"method": "vispruner", "keep": 0.5}, "77642f4a1b3997b114af4496caf0c3f2"),
        ({"method": "vispruner", "keep": 64, "important_ratio": 0.25}, "e2cb9b91bcecdca02e0176a171a6edb1"),
        ({"method": "vispruner", "keep": 64, "important_ratio": 1}, "ef6793351645808c45655599f48a2f34"),
        ({"method": "vispruner", "keep_mass": 0.3}, "7e2d6f11ec3d89246a08082175db4175"),
    ],
)
def test_an_output_begun_when_all_methods_had_one_class_goes_on(section: dict[str, Any] | None, digest: str) -> None:
    """The digests are those of that time."""
    assert fingerprint_of(_pruned(section), CHECKPOINT).digest == digest
