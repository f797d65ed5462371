"""The manifests as they reach a cluster: valid, safe, and in agreement with each other and with star-batch."""

import copy
import json
import re
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from k8s.base import launch
from star_batch.cli import app
from star_batch.config import JobConfig, load_config
from tests.k8s import kustomize
from tests.k8s.kuberay import MAX_NAME, ROOT, rule_errors, schema_errors
from tests.k8s.pods import (
    Manifest,
    broken_mounts,
    not_confined,
    not_restricted,
    open_secrets,
    pods,
    quantity,
)

K8S = ROOT / "k8s"
FOLDERS = ("base", "overlays/production", "overlays/shared-weights", "raycronjob-alpha", "monitoring")
KUBERNETES = ("1.32", "1.37")
RAY_KINDS = {"RayJob", "RayCronJob"}
OPERATOR_KINDS = {"PodMonitor", "PrometheusRule"}
OUR_HOME = "star-batch"
RAY_MEMORY_SHARE = 0.3

POD_MONITOR = {
    "type": "object",
    "additionalProperties": False,
    "required": ["selector", "podMetricsEndpoints"],
    "properties": {
        "selector": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "matchExpressions": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["key", "operator"],
                        "properties": {
                            "key": {"type": "string"},
                            "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                            "values": {"type": "array", "items": {"type": "string"}},
                        },
                    },
                }
            },
        },
        "podTargetLabels": {"type": "array", "items": {"type": "string"}},
        "podMetricsEndpoints": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["port"],
                "properties": {"port": {"type": "string"}},
            },
        },
    },
}
"""What is used of monitoring.coreos.com/v1, whose CRD is in no schema library."""


@cache
def _built(folder: str) -> list[Manifest]:
    return kustomize.build(K8S / folder)


def built(folder: str) -> list[Manifest]:
    return copy.deepcopy(_built(folder))


def one(folder: str, kind: str) -> Manifest:
    [manifest] = [manifest for manifest in built(folder) if manifest["kind"] == kind]
    return manifest


ALL = [
    pytest.param(manifest, id=f"{folder}:{manifest['kind']}/{manifest['metadata']['name']}")
    for folder in FOLDERS
    for manifest in _built(folder)
]
RAY = [case for case in ALL if str(case.id).split(":")[1].split("/")[0] in RAY_KINDS]
CORE = [case for case in ALL if case not in RAY and str(case.id).split(":")[1].split("/")[0] not in OPERATOR_KINDS]
OVERLAYS = FOLDERS[:-1]


# Valid


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("manifest", CORE)
def test_kubernetes_accepts_its_own_kinds(manifest: Manifest, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_an_unknown_field_of_a_cronjob_is_refused() -> None:
    manifest = one("base", "CronJob")
    manifest["spec"]["concurencyPolicy"] = "Forbid"
    with pytest.raises(kubernetes_validate.ValidationError, match="concurencyPolicy"):
        kubernetes_validate.validate(manifest, KUBERNETES[-1], strict=True)


@pytest.mark.parametrize("manifest", RAY)
def test_the_schemas_of_kuberay_accept_it(manifest: Manifest) -> None:
    assert schema_errors(manifest) == []


@pytest.mark.parametrize("manifest", RAY)
def test_the_code_of_kuberay_accepts_it(manifest: Manifest) -> None:
    assert rule_errors(manifest) == []


def test_a_template_that_would_not_shut_down_is_refused() -> None:
    manifest = one("base", "RayJob")
    manifest["spec"]["shutdownAfterJobFinishes"] = False
    assert len(rule_errors(manifest)) == 2


def test_the_pod_monitor_is_one() -> None:
    manifest = one("monitoring", "PodMonitor")
    assert manifest["apiVersion"] == "monitoring.coreos.com/v1"
    jsonschema.validate(manifest["spec"], POD_MONITOR)


def test_the_rules_are_what_the_operator_takes() -> None:
    """promtool reads their inside: see tests/monitoring."""
    manifest, monitor = one("monitoring", "PrometheusRule"), one("monitoring", "PodMonitor")
    assert manifest["apiVersion"] == monitor["apiVersion"]
    assert manifest["metadata"]["labels"] == monitor["metadata"]["labels"]
    assert set(manifest["spec"]) == {"groups"}
    for rule in manifest["spec"]["groups"][0]["rules"]:
        assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}


def test_the_rules_name_the_cronjob() -> None:
    cron = one("base", "CronJob")["metadata"]["name"]
    namespace = one("base", "Namespace")["metadata"]["name"]
    asked = [rule["expr"] for rule in one("monitoring", "PrometheusRule")["spec"]["groups"][0]["rules"]]
    about = [expression for expression in asked if "kube_cronjob" in expression]
    assert len(about) == 2
    assert all(f'{{namespace="{namespace}", cronjob="{cron}"}}' in expression for expression in about)


def test_grafana_finds_the_dashboard() -> None:
    manifest = one("monitoring", "ConfigMap")
    assert manifest["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert json.loads(manifest["data"]["dashboard.json"])["uid"] == "star-batch"


def test_every_folder_is_built() -> None:
    assert {str(file.parent.relative_to(K8S)) for file in K8S.rglob("kustomization.yaml")} == set(FOLDERS)


def test_every_file_belongs_to_a_folder_that_is_built() -> None:
    read = {"kustomization.yaml", "Dockerfile", "Dockerfile.dockerignore", "README.md"}
    for folder in FOLDERS:
        settings = yaml.safe_load((K8S / folder / "kustomization.yaml").read_text(encoding="utf-8"))
        read |= {Path(name).name for name in settings["resources"] if name.endswith(".yaml")}
        read |= {name for generator in settings.get("configMapGenerator", []) for name in generator["files"]}
    files = {file.name for file in K8S.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    assert files == read


# Safe


@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_pod_is_restricted(folder: str) -> None:
    found = list(pods(built(folder)))
    assert len(found) >= 5  # submitter, head, two groups of workers, launcher
    for pod in found:
        assert not_restricted(pod) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("runAsNonRoot", False), ("runAsUser", 0), ("seccompProfile", {"type": "Unconfined"})],
)
def test_a_pod_that_is_less_is_found(key: str, value: object) -> None:
    pod = next(pods(one("base", "CronJob")))
    pod["securityContext"][key] = value
    assert len(not_restricted(pod)) == 1


@pytest.mark.parametrize("key", ["allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"])
def test_a_container_that_is_less_is_found(key: str) -> None:
    pod = next(pods(one("base", "CronJob")))
    del pod["containers"][0]["securityContext"][key]
    assert not_restricted(pod) == [f"launch: {key}"]


def test_the_autoscaler_that_kuberay_adds_is_confined() -> None:
    options = one("base", "RayJob")["spec"]["rayClusterSpec"]["autoscalerOptions"]
    assert not_confined(options) == []
    assert {"name": "tmp", "mountPath": "/tmp"} in options["volumeMounts"]


def test_the_namespace_lets_no_other_pod_in() -> None:
    labels = one("base", "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("folder", FOLDERS)
def test_secrets_are_named_and_never_written(folder: str) -> None:
    manifests = built(folder)
    assert not [manifest for manifest in manifests if manifest["kind"] == "Secret"]
    assert open_secrets(manifests) == []


def test_a_secret_in_the_open_is_found() -> None:
    job = one("base", "RayJob")
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    head["env"] = [{"name": "HF_TOKEN", "value": "hf_abc"}]
    assert open_secrets(job) == ["HF_TOKEN"]


def test_ray_asks_for_a_token() -> None:
    assert one("base", "RayJob")["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_the_launcher_may_do_no_more_than_it_does() -> None:
    role = one("base", "Role")
    assert role["rules"] == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["get", "create"]}]
    binding = one("base", "RoleBinding")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "star-batch-launcher", "namespace": OUR_HOME}]


def test_only_the_head_and_the_launcher_get_a_token_of_the_cluster() -> None:
    """The head because of the autoscaler beside it, the launcher because it creates RayJobs."""
    holders = {pod["containers"][0]["name"] for pod in pods(built("base")) if is_token_mounted(pod)}
    assert holders == {"ray-head", "launch"}


def is_token_mounted(pod: Manifest) -> bool:
    return bool(pod.get("automountServiceAccountToken", True))


# In agreement with each other


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


def ray_groups(folder: str) -> list[Manifest]:
    cluster = one(folder, "RayJob")["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


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


def launcher_options() -> dict[str, str]:
    [container] = next(pods(one("base", "CronJob")))["containers"]
    return dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])


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


# In agreement with star-batch


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
