"""Which device the engines work on and the GPUs they take: by what the job asks for and the cluster has. Knows no row.

A job asks for GPUs by `model.device: cuda` or `cluster.gpus_per_actor`. Then it gets them, waits for an autoscaler, or
is refused. With `auto` alone it takes what is there, and says so where that is the CPU of a cluster.
"""

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ray
import ray.exceptions
import ray.runtime_env

from star_batch.config import Cluster, JobConfig
from star_batch.errors import ClusterError, ConfigError
from star_batch.pipeline.cluster import starts_own
from star_batch.pipeline.scout import Need, send_ahead
from star_batch.storage.redaction import redacted
from star_batch.wording import printable

logger = logging.getLogger(__name__)

_ROUNDING = 1e-9

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Gpus:
    """GPUs of a cluster: on each node that has some, and how many it may grow to; None where nobody says."""

    nodes: tuple[float, ...] = ()
    most: float | None = None

    @property
    def here(self) -> float:
        return sum(self.nodes)

    def actors(self, each: float) -> int:
        """How many actors that take `each` find their place; several share a GPU, but none lies across two."""
        return sum(_fit(count, each) for count in self.nodes)


def _fit(count: float, each: float) -> int:
    per_gpu = int(1.0 / each + _ROUNDING) if each < 1.0 else 1.0 / each
    return int(count * per_gpu + _ROUNDING)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine works: its device and its share of GPUs; `remark` is what its owner should hear of it."""

    device: Device
    gpus: float
    remark: str | None = None

    def on(self, config: JobConfig) -> JobConfig:
        """The job as an engine there gets it."""
        return config.model_copy(update={"model": config.model.model_copy(update={"device": self.device})})


def place_of(config: JobConfig, there: Gpus) -> Place:
    """The place of each actor, as the job asks for it."""
    device, chosen = config.model.device, config.cluster.gpus_per_actor
    if device == "cpu":
        return Place("cpu", chosen or 0.0)
    if device == "cuda":
        return Place("cuda", 1.0 if chosen is None else chosen)
    if chosen == 0.0:
        return Place("cpu", 0.0, "cluster.gpus_per_actor is 0: engines run on CPU")
    if chosen is None and not there.here and not there.most:
        return Place("cpu", 0.0, "no GPU in the cluster: engines run on CPU; set model.device: cuda to wait for one")
    return Place("cuda", 1.0 if chosen is None else chosen)


def refuse_early(config: JobConfig) -> None:
    """What is known to fail before Ray is there.

    Raises:
        ConfigError: Ray does not take `cluster.runtime_env`.
        ClusterError: Ray is to start on this machine, which will not grow, and has not the GPUs that the job asks for.
    """
    _check_runtime_env(config.cluster.environment)
    gpus = place_of(config, Gpus()).gpus
    if gpus and starts_own(config.cluster):
        import torch  # only now: who asks for no GPU need not wait for it

        _refuse_if_few(config.cluster, gpus, Gpus((float(torch.cuda.device_count()),)))


def _check_runtime_env(environment: Mapping[str, Any] | None) -> None:
    try:
        ray.runtime_env.RuntimeEnv(**environment or {})
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        said = printable(redacted(str(error)).strip().partition("\n")[0])
        raise ConfigError(f"cluster.runtime_env: {said}") from None


def _refuse_if_few(cluster: Cluster, gpus: float, there: Gpus) -> None:
    actors = cluster.actor_range[0]
    if there.actors(gpus) >= actors:
        return
    share = f" of {gpus:g} each" if gpus != 1.0 else ""
    raise ClusterError(
        f"{actors} actor{'s'[: actors > 1]} on GPUs{share} need more than the {there.here:g} GPUs of this machine: "
        "set model.device: cpu (and leave out cluster.gpus_per_actor), or fewer actors"
    )


def find_place(config: JobConfig, *, is_own_ray: bool) -> Place:
    """The place of each actor on a Ray that is there; waits for an autoscaler where the job asks for that.

    Raises:
        ClusterError: there are no such GPUs, and none will come.
    """
    there = gpus_there()
    place = place_of(config, there)
    if is_own_ray:
        if place.gpus:
            _refuse_if_few(config.cluster, place.gpus, there)
        return place
    if place.remark is not None:
        logger.warning("%s", place.remark)
    send_ahead(_need(config.cluster, place.gpus, there))
    return place


def _need(cluster: Cluster, gpus: float, there: Gpus) -> Need:
    """What a first actor takes; a wait for GPUs that have yet to come is announced, and has an end."""
    if not gpus or there.actors(gpus):
        return Need(cpus=cluster.cpus_per_actor, gpus=gpus)
    if there.most is not None and there.most < gpus:
        raise ClusterError(
            f"an actor needs {gpus:g} GPUs, and the cluster grows to {there.most:g}: set model.device: cpu, or choose "
            "a cluster that has them"
        )
    wait = cluster.gpu_wait_seconds
    logger.warning("no GPU for an actor in the cluster: waiting up to %g s for its autoscaler to bring %g", wait, gpus)
    return Need(cpus=cluster.cpus_per_actor, gpus=gpus, seconds=wait)


def gpus_there() -> Gpus:
    """What Ray knows of its cluster's GPUs."""
    nodes = (node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"])
    return Gpus(tuple(count for count in nodes if count), _most())


def _most() -> float | None:
    """How many GPUs an autoscaler may bring; Ray's own libraries ask the same way. Not every autoscaler says."""
    with contextlib.suppress(ImportError, AttributeError, ValueError, RuntimeError, ray.exceptions.RayError):
        from ray._private.state import state

        most = state.get_max_resources_from_cluster_config()
        return None if most is None else float(most.get("GPU", 0))
    return None
