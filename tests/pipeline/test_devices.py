"""Which device the engines work on, by what a job asks for and a cluster has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from star_batch.config import JobConfig
from star_batch.errors import ClusterError, ConfigError
from star_batch.pipeline import devices
from star_batch.pipeline.devices import Gpus, Place, place_of, refuse_early
from star_batch.pipeline.job import run
from tests.pipeline import fakes
from tests.pipeline.samples import job, rows, write


def asking(device: str, gpus: float | None = None, **cluster: Any) -> JobConfig:
    return job("in", "out", model={"name": "fake", "device": device}, cluster={"gpus_per_actor": gpus} | cluster)


NOWHERE, HERE, GROWING = Gpus(), Gpus((2.0,)), Gpus((), most=4.0)


@pytest.mark.parametrize(
    ("device", "gpus", "there", "place"),
    [
        ("cpu", None, HERE, Place("cpu", 0.0)),
        ("cpu", 1.0, HERE, Place("cpu", 1.0)),
        ("cuda", None, NOWHERE, Place("cuda", 1.0)),
        ("cuda", 0.5, HERE, Place("cuda", 0.5)),
        ("cuda", 0.0, HERE, Place("cuda", 0.0)),
        ("auto", None, HERE, Place("cuda", 1.0)),
        ("auto", None, GROWING, Place("cuda", 1.0)),  # a pool scaled from zero
        ("auto", 1.0, NOWHERE, Place("cuda", 1.0)),  # asked for, so it waits
        ("auto", 0.25, NOWHERE, Place("cuda", 0.25)),
    ],
)
def test_where_engines_work(device: str, gpus: float | None, there: Gpus, place: Place) -> None:
    config = asking(device, gpus)
    assert place_of(config, there) == place
    assert place.on(config).model.device == place.device


def test_auto_without_a_gpu_is_the_cpu_and_says_so() -> None:
    place = place_of(asking("auto"), NOWHERE)
    assert (place.device, place.gpus) == ("cpu", 0.0)
    assert place.remark == "no GPU in the cluster: engines run on CPU; set model.device: cuda to wait for one"
    assert place_of(asking("auto", 0.0), HERE).remark == "cluster.gpus_per_actor is 0: engines run on CPU"


@pytest.mark.parametrize(
    ("nodes", "each", "actors"),
    [
        ((), 1.0, 0),
        ((4.0, 4.0), 1.0, 8),
        ((1.0, 1.0), 2.0, 0),  # no actor lies across two machines
        ((4.0, 3.0), 2.0, 3),
        ((1.0,), 0.5, 2),
        ((2.0,), 0.6, 2),  # nor across two GPUs
        ((3.0,), 0.1, 30),
    ],
)
def test_how_many_actors_find_a_gpu(nodes: tuple[float, ...], each: float, actors: int) -> None:
    assert Gpus(nodes).actors(each) == actors


@given(st.lists(st.integers(0, 16)), st.floats(0.01, 1.0))
def test_shares_of_a_gpu_never_add_up_to_more_than_it(nodes: list[int], each: float) -> None:
    per_gpu = Gpus((1.0,)).actors(each)
    assert per_gpu >= 1
    assert per_gpu * each <= 1.0 + 1e-6
    assert Gpus(tuple(map(float, nodes))).actors(each) == per_gpu * sum(nodes)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (asking("cuda"), "1 actor on GPUs need more than the 0 GPUs of this machine: set model.device: cpu"),
        (asking("auto", 0.5, actors=2), "2 actors on GPUs of 0.5 each need more than the 0 GPUs of this machine"),
    ],
)
def test_gpus_that_this_machine_has_not_are_refused_before_ray_starts(
    config: JobConfig, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(devices, "starts_own", lambda cluster: True)
    with pytest.raises(ClusterError) as error:
        refuse_early(config)
    assert str(error.value).startswith(said)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    refuse_early(config)


def test_who_asks_for_no_gpu_or_joins_a_cluster_is_not_refused_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    refuse_early(asking("auto"))
    refuse_early(asking("cuda", address="10.0.0.1:6379"))


def test_a_refusal_touches_nothing_of_an_old_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(devices, "starts_own", lambda cluster: True)
    old = tmp_path / "out" / "answers" / f"{1:08d}-{'a' * 12}-{'b' * 32}-{'c' * 32}.parquet"
    write(old, rows(1))
    config = job(
        write(tmp_path / "in.parquet", rows(3)),
        tmp_path / "out",
        model={"name": "fake", "device": "cuda"},
        output={"overwrite": True},
    )
    with pytest.raises(ClusterError, match="GPUs of this machine"):
        run(config, backend=fakes.FAKE)
    assert old.exists()


def test_a_runtime_env_that_ray_does_not_take_is_refused_before_ray_starts() -> None:
    with pytest.raises(ConfigError, match=r"^cluster\.runtime_env: .*pip"):
        refuse_early(asking("cpu", runtime_env={"pip": 7}))
    refuse_early(asking("cpu", runtime_env={"env_vars": {"A": "b"}}))


def test_a_cluster_that_cannot_grow_so_far_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus_there", lambda: Gpus((), most=0.0))
    with pytest.raises(ClusterError, match="an actor needs 1 GPUs, and the cluster grows to 0"):
        devices.find_place(asking("cuda"), is_own_ray=False)
