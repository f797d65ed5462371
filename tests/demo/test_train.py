"""Training is seeded, resumes where it stopped, and its stages follow one another."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from star_batch.demo import train
from star_batch.demo.evaluate import load
from star_batch.demo.train import STAGES, Settings, parse, schedule, stage_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    given = parse(["--out", str(tmp_path / "out"), "--state", str(tmp_path / "state.pt"), "--steps", "2"])
    return replace(given, batch=2, pairs=2, every=1)


@pytest.fixture
def short_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step in each stage, so that two or more steps meet the tower and the decoder."""
    monkeypatch.setattr(train, "STAGES", tuple(replace(stage, steps=1) for stage in STAGES))


def weights(settings: Settings) -> dict[str, torch.Tensor]:
    run = train.start(settings)
    train.train(run, settings)
    return {name: value.clone() for name, value in run.model.state_dict().items()}


@pytest.mark.usefixtures("short_stages")
def test_a_resumed_run_goes_the_way_of_an_unbroken_one(settings: Settings) -> None:
    four = replace(settings, steps=4)
    whole = weights(four)
    run = train.start(four)
    for run.step in range(2):
        train.train_step(run, four)
    run.step = 2
    train.save_state(run, four.state)
    resumed = weights(replace(four, resume=True))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.usefixtures("short_stages")
def test_another_seed_gives_another_model(settings: Settings) -> None:
    first, second = weights(settings), weights(replace(settings, seed=1))
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("short_stages")
def test_what_is_saved_loads(settings: Settings) -> None:
    run = train.start(settings)
    train.save(run.model, settings.out)
    loaded = load(settings.out).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in run.model.state_dict().items())


def test_stages_follow_one_another() -> None:
    assert stage_of(0) is STAGES[0]
    assert stage_of(STAGES[0].steps - 1) is STAGES[0]
    assert stage_of(STAGES[0].steps) is STAGES[1]
    assert stage_of(10**6) is STAGES[-1]


def test_the_rate_warms_up_stays_and_falls() -> None:
    settings = parse([])
    rates = [schedule(step, settings) for step in range(settings.steps)]
    assert rates[0] < 0.01
    assert max(rates) == 1.0 == rates[1000]
    assert rates[STAGES[0].steps] < 0.01  # the decoder begins
    assert 0 < rates[-1] < 0.001
