"""The manifests of every folder, as kustomize builds them."""

import copy
from functools import cache

from tests.k8s import kustomize
from tests.k8s.kuberay import ROOT
from tests.k8s.pods import Manifest, pods

K8S = ROOT / "k8s"
FOLDERS = ("base", "overlays/production", "overlays/shared-weights", "raycronjob-alpha", "monitoring")
OVERLAYS = FOLDERS[:-1]
OUR_HOME = "star-batch"


@cache
def _built(folder: str) -> list[Manifest]:
    return kustomize.build(K8S / folder)


def built(folder: str) -> list[Manifest]:
    return copy.deepcopy(_built(folder))


def one(folder: str, kind: str) -> Manifest:
    [manifest] = [manifest for manifest in built(folder) if manifest["kind"] == kind]
    return manifest


def ray_groups(folder: str) -> list[Manifest]:
    cluster = one(folder, "RayJob")["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def launcher_options() -> dict[str, str]:
    [container] = next(pods(one("base", "CronJob")))["containers"]
    return dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])
