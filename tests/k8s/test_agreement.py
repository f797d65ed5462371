"""The manifests agree with each other and with star-batch."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from k8s.base import launch
from star_batch.cli import app
from star_batch.config import JobConfig, load_config
from tests.k8s import kustomize
from tests.k8s.built import FOLDERS, K8S, OUR_HOME, OVERLAYS, built, launcher_options, one, ray_groups
from tests.k8s.kuberay import MAX_NAME
from tests.k8s.pods import Manifest, broken_mounts, pods, quantity

RAY_MEMORY_SHARE = 0.3


@pytest.mark.parametrize("folder", OVERLAYS)
def test_what_is_named_is_there(folder: str) -> None:
    manifests = built(folder)
    names: dict[str, set[str]] = {}
    for manifest in manifests:
        names.setdefault(manifest["kind"], set()).add(manifest["metadata"]["name"])
    for pod in pods(manifests):
        assert pod["serviceAccountName"] in names["ServiceAccount"]
        for volume in pod.get("volumes", []):
            assert volume.get("configMap", {"name": "star-batch-job"})["name"] in names["ConfigMap"]
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or claim["claimName"] in names["PersistentVolumeClaim"]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_mounts_and_volumes_belong_together(folder: str) -> None:
    for pod in pods(built(folder)):
        assert broken_mounts(pod) == []


def test_a_mount_without_a_volume_is_found() -> None:
    pod = next(pods(one("base", "CronJob")))
    pod["volumes"] = []
    assert broken_mounts(pod) == ["launcher"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_all_live_in_one_namespace(folder: str) -> None:
    for manifest in built(folder):
        metadata = manifest["metadata"]
        assert metadata.get("namespace", metadata["name"]) == OUR_HOME


@pytest.mark.parametrize("folder", OVERLAYS[1:])
def test_an_overlay_changes_every_image(folder: str) -> None:
    [image] = {container["image"] for container in kustomize.containers(built(folder))}
    assert re.fullmatch(r".+/star-batch:\d+\.\d+\.\d+", image)


@pytest.mark.parametrize("folder", OVERLAYS)
def test_the_head_has_no_gpu_and_every_worker_one(folder: str) -> None:
    head, *workers = ray_groups(folder)
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert [gpus(group) for group in (head, *workers)] == [0, 1, 1]
    assert not any("nvidia" in taint["key"] for taint in head["template"]["spec"].get("tolerations", []))
    for worker in workers:
        tolerated = {(taint["key"], taint["operator"]) for taint in worker["template"]["spec"]["tolerations"]}
        assert ("nvidia.com/gpu", "Exists") in tolerated


def gpus(group: Manifest) -> int:
    resources = group["template"]["spec"]["containers"][0]["resources"]
    counts = [int(resources[key].get("nvidia.com/gpu", 0)) for key in ("requests", "limits")]
    assert counts[0] == counts[1], "Kubernetes refuses a request for GPUs that is not the limit"
    return counts[0]


def test_shared_memory_holds_the_object_store() -> None:
    """Ray takes 30% of the container's memory for it, and a slow disk if /dev/shm is smaller."""
    for group in ray_groups("base"):
        pod = group["template"]["spec"]
        [size] = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm"]
        memory = quantity(pod["containers"][0]["resources"]["limits"]["memory"])
        assert size["medium"] == "Memory"
        assert RAY_MEMORY_SHARE * memory <= quantity(size["sizeLimit"]) < memory / 2
        assert {"name": "shm", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]


def test_ray_can_write_where_it_must() -> None:
    for pod in pods(one("base", "RayJob")):
        writable = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
        assert {m["mountPath"] for m in pod["containers"][0]["volumeMounts"] if m["name"] in writable} >= {"/tmp"}


def test_a_gpu_that_cannot_be_had_is_noticed() -> None:
    """The time until a job runs is the time until all workers asked for at first are there: at least one has a GPU."""
    spec = one("base", "RayJob")["spec"]
    [first, *_] = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert first["minReplicas"] == first["replicas"] >= 1
    assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]


def test_spot_workers_are_a_group_of_their_own() -> None:
    head, on_demand, spot = ray_groups("base")
    assert spot["labels"] == {"ray.io/market-type": "spot"}
    assert spot["priority"] > on_demand.get("priority", 0)
    assert spot["minReplicas"] == 0
    for group in (head, on_demand):
        assert labels_of(refused_nodes(group)) == labels_of(wanted(spot))


def labels_of(expressions: list[Manifest]) -> set[tuple[str, ...]]:
    return {(expression["key"], *expression["values"]) for expression in expressions}


def node_terms(group: Manifest) -> list[list[Manifest]]:
    affinity = group["template"]["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return [term["matchExpressions"] for term in terms]


def refused_nodes(group: Manifest) -> list[Manifest]:
    """All of one term must hold."""
    [term] = node_terms(group)
    assert {expression["operator"] for expression in term} == {"NotIn"}
    return term


def wanted(group: Manifest) -> list[Manifest]:
    """One of many terms must hold."""
    expressions = [expression for [expression] in node_terms(group)]
    assert {expression["operator"] for expression in expressions} == {"In"}
    return expressions


def test_prometheus_finds_the_ports() -> None:
    spec = one("monitoring", "PodMonitor")["spec"]
    [asked] = spec["selector"]["matchExpressions"]
    assert asked == {"key": "ray.io/node-type", "operator": "In", "values": ["head", "worker"]}
    head, *workers = [
        {port["name"] for port in group["template"]["spec"]["containers"][0]["ports"]} for group in ray_groups("base")
    ]
    assert {endpoint["port"] for endpoint in spec["podMetricsEndpoints"]} <= head
    assert all("metrics" in ports for ports in workers)


def test_the_job_is_where_prometheus_asks() -> None:
    job = load_config(K8S / "base" / "job.yaml", {"input.path": "in", "output.path": "out"})
    head = ray_groups("base")[0]["template"]["spec"]["containers"][0]
    assert {"name": "job-metrics", "containerPort": job.metrics.port} in head["ports"]
    assert job.metrics.host == "0.0.0.0"


def test_the_cronjob_waits_longer_than_the_rayjob_may_take() -> None:
    """Each try of a RayJob has its own deadline."""
    night, cron = one("base", "RayJob")["spec"], one("base", "CronJob")["spec"]
    longest = (night["backoffLimit"] + 1) * night["activeDeadlineSeconds"] + night["ttlSecondsAfterFinished"]
    waits = float(launcher_options()["timeout-seconds"])
    assert longest < waits < cron["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 24 * 3600


def test_the_cronjob_names_what_there_is() -> None:
    cron, options = one("base", "CronJob"), launcher_options()
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    assert options["cronjob"] == cron["metadata"]["name"]
    assert options["template"] == one("base", "RayJob")["metadata"]["name"]
    assert one("base", "RayJob")["spec"]["suspend"] is True
    assert len(launch.name_for(f"{options['cronjob']}-12345678")) <= MAX_NAME["RayJob"]


def test_the_cronjob_reads_its_name_from_labels_that_kubernetes_sets() -> None:
    [container] = next(pods(one("base", "CronJob")))["containers"]
    fields = {env["name"]: env["valueFrom"]["fieldRef"]["fieldPath"] for env in container["env"]}
    assert fields == {
        "JOB_NAME": "metadata.labels['batch.kubernetes.io/job-name']",
        "JOB_UID": "metadata.labels['batch.kubernetes.io/controller-uid']",
    }
    assert (options := launcher_options())["job"] == "$(JOB_NAME)"
    assert options["job-uid"] == "$(JOB_UID)"


def test_a_failed_night_is_not_tried_by_pod_after_pod() -> None:
    template = one("base", "CronJob")["spec"]["jobTemplate"]["spec"]
    fails, ignores = template["podFailurePolicy"]["rules"]
    assert fails["action"] == "FailJob"
    assert fails["onExitCodes"] == {"containerName": "launch", "operator": "In", "values": [1, 2]}
    assert ignores["action"] == "Ignore"
    assert template["template"]["spec"]["restartPolicy"] == "Never"


def test_the_alpha_variant_is_the_same_job() -> None:
    job, cron = (one("raycronjob-alpha", kind)["spec"] for kind in ("RayJob", "RayCronJob"))
    different = {"entrypoint", "suspend"}
    same = {key: value for key, value in job.items() if key not in different}
    assert {key: value for key, value in cron["jobTemplate"].items() if key not in different} == same
    assert "suspend" not in cron["jobTemplate"]
    night = one("base", "CronJob")["spec"]
    assert (cron["schedule"], cron["timeZone"]) == (night["schedule"], night["timeZone"])
    assert one("raycronjob-alpha", "CronJob")["spec"]["suspend"] is True


def config_of(entrypoint: str, job: Path, monkeypatch: pytest.MonkeyPatch) -> JobConfig:
    """What star-batch would run for an entrypoint, by its own command line."""
    program, command, file, *flags = shlex.split(re.sub(r"\$\(.*?\)", "2026-11-20", entrypoint))
    assert (program, command, file) == ("star-batch", "run", "/etc/star-batch/job.yaml")
    configs: list[JobConfig] = []
    monkeypatch.setattr("star_batch.cli.run.run_job", lambda config, **_: configs.append(config))
    result = CliRunner().invoke(app, ["run", str(job), *flags])
    assert result.exit_code == 0, result.output
    [config] = configs
    return config


ENTRYPOINTS: list[tuple[str, Callable[[], str]]] = [
    ("base", lambda: one("base", "RayJob")["spec"]["entrypoint"]),
    ("production", lambda: one("overlays/production", "RayJob")["spec"]["entrypoint"]),
    ("alpha", lambda: one("raycronjob-alpha", "RayCronJob")["spec"]["jobTemplate"]["entrypoint"]),
]


@pytest.mark.parametrize("entrypoint", [case[1] for case in ENTRYPOINTS], ids=[case[0] for case in ENTRYPOINTS])
def test_star_batch_understands_the_entrypoint(
    entrypoint: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "job.yaml"
    [config_map] = kustomize.select(built("base"), "ConfigMap", "star-batch-job")
    file.write_text(config_map["data"]["job.yaml"], encoding="utf-8")
    config = config_of(entrypoint(), file, monkeypatch)
    assert config.cluster.address == "auto"
    assert not config.output.overwrite
    # The day is in both, or the second night would find the first one's answers.
    assert re.search(r"\{yesterday\}|2026-11-20", config.input.paths[0])
    assert re.search(r"\{yesterday\}|2026-11-20", config.output.path)


def test_there_is_a_gpu_for_every_actor() -> None:
    job = load_config(K8S / "base" / "job.yaml", {"input.path": "in", "output.path": "out"})
    workers = ray_groups("base")[1:]
    fewest, most = (sum(group[key] for group in workers) for key in ("minReplicas", "maxReplicas"))
    assert job.cluster.actor_range == (fewest, most)


def test_a_night_asks_for_gpus_and_never_goes_on_without() -> None:
    """A GPU pool may stand at zero when the driver looks: `auto` would take that for a cluster of CPUs."""
    job = load_config(K8S / "base" / "job.yaml", {"input.path": "in", "output.path": "out"})
    assert (job.model.device, job.cluster.gpus_per_actor) == ("cuda", 1.0)
    assert job.cluster.gpu_wait_seconds < one("base", "RayJob")["spec"]["activeDeadlineSeconds"]


def test_every_pod_of_ray_has_a_home_that_it_can_write() -> None:
    """The image's HOME is a volume; what a user without one would do is tried in `tests/test_home.py`."""
    image = (K8S / "Dockerfile").read_text()
    assert re.search(r"^ENV .*HOME=/tmp\b", image, re.MULTILINE)
    for group in ray_groups("base"):
        for container in group["template"]["spec"]["containers"]:
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_no_placeholder_is_left_for_the_launcher_to_miss() -> None:
    placeholders = set(re.findall(r"\{\w+\}", one("overlays/production", "RayJob")["spec"]["entrypoint"]))
    assert placeholders <= {"{date}", "{yesterday}"}
