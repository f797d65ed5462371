"""The restated rules of KubeRay, and its strict schemas, each on a job that is as it should be but for one thing."""

from typing import Any

import pytest

from tests.k8s.kuberay import rule_errors, schema_errors
from tests.k8s.pods import Manifest


def pod() -> Manifest:
    return {"spec": {"containers": [{"name": "ray", "image": "star-batch:0.1.0"}]}}


def small_job() -> Manifest:
    worker = {"groupName": "gpu", "minReplicas": 0, "maxReplicas": 2, "rayStartParams": {}, "template": pod()}
    cluster = {
        "rayVersion": "2.60.0",
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2"},
        "authOptions": {"mode": "token"},
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": pod()},
        "workerGroupSpecs": [worker],
    }
    spec = {"entrypoint": "true", "shutdownAfterJobFinishes": True, "rayClusterSpec": cluster}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "night"}, "spec": spec}


def with_changes(changes: dict[str, Any]) -> Manifest:
    """A small job with some fields set; `None` takes one away."""
    job = small_job()
    for path, value in changes.items():
        *parents, last = path.split(".")
        parent: Any = job
        for part in parents:
            parent = parent[int(part)] if isinstance(parent, list) else parent.setdefault(part, {})
        if value is None:
            del parent[last]
        else:
            parent[last] = value
    return job


def test_a_good_job_passes() -> None:
    assert rule_errors(small_job()) == []
    assert rule_errors(with_changes({"spec.suspend": True, "spec.ttlSecondsAfterFinished": 60})) == []


KEEP = "spec.shutdownAfterJobFinishes"
CLUSTER = "spec.rayClusterSpec"
GPU = f"{CLUSTER}.workerGroupSpecs.0"
RULES = "spec.deletionStrategy.deletionRules"
V1 = {f"{CLUSTER}.autoscalerOptions": {"version": "v1"}}


def deletion(policy: str, seconds: int = 0, **condition: str) -> Manifest:
    return {"policy": policy, "condition": {**(condition or {"jobStatus": "FAILED"}), "ttlSeconds": seconds}}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"metadata.name": "n" * 48}, "the name"),
    ({"metadata.name": "1st-night"}, "the name"),
    ({"spec.suspend": True, KEEP: None}, "suspend needs"),
    ({"spec.ttlSecondsAfterFinished": 60, KEEP: False}, "ttlSecondsAfterFinished needs"),
    ({"spec.ttlSecondsAfterFinished": -1}, "is negative"),
    ({"spec.activeDeadlineSeconds": 0}, "must be positive"),
    ({"spec.preRunningDeadlineSeconds": 0}, "must be positive"),
    ({"spec.backoffLimit": -1}, "backoffLimit is negative"),
    ({CLUSTER: None}, "one of rayClusterSpec"),
    ({"spec.clusterSelector": {"ray.io/cluster": "other"}, "spec.backoffLimit": 1}, "clusterSelector excludes"),
    ({"spec.submissionMode": "InteractiveMode", "spec.backoffLimit": 1}, "InteractiveMode excludes"),
    ({"spec.submissionMode": "SidecarMode", "spec.submitterConfig": {}}, "SidecarMode excludes"),
    ({RULES: [deletion("DeleteCluster")]}, "exclude shutdownAfterJobFinishes"),
    ({RULES: [deletion("DeleteWorkers")], KEEP: None}, "DeleteWorkers excludes autoscaling"),
    ({RULES: [deletion("DeleteSelf", jobStatus="FAILED", jobDeploymentStatus="Failed")], KEEP: None}, "is one of"),
    ({RULES: [deletion("DeleteCluster", 9), deletion("DeleteSelf", 8)], KEEP: None}, "workers go before"),
    ({RULES: [deletion("DeleteSelf"), deletion("DeleteSelf")], KEEP: None}, "two rules for"),
    ({"spec.deletionStrategy": {"onSuccess": {"policy": "DeleteSelf"}}}, "deletionStrategy needs"),
    ({f"{CLUSTER}.authOptions.enableK8sTokenAuth": True}, "Kubernetes' own tokens"),
    ({f"{CLUSTER}.rayVersion": "2.51.0"}, "needs Ray 2.52"),
    ({f"{CLUSTER}.rayVersion": None}, "needs Ray 2.52"),
    ({f"{CLUSTER}.networkPolicy": {}}, "feature gate"),
    ({f"{CLUSTER}.headGroupSpec.template.spec.restartPolicy": "Always"}, "restartPolicy"),
    ({f"{CLUSTER}.headGroupSpec.template.spec.containers": []}, "no container"),
    ({f"{CLUSTER}.headGroupSpec.resources": {"CPU": "1"}}, "resources in two places"),
    ({f"{GPU}.rayStartParams": {"labels": "a=b"}}, "labels belong"),
    ({f"{GPU}.minReplicas": 3}, "minReplicas above"),
    ({f"{GPU}.minReplicas": -1}, "negative replicas"),
    ({f"{GPU}.maxReplicas": None, f"{CLUSTER}.enableInTreeAutoscaling": False}, "are needed without"),
    ({f"{GPU}.suspend": True}, "suspend excludes"),
    ({f"{GPU}.priority": 1, **V1}, "need autoscaler v2"),
    ({f"{GPU}.idleTimeoutSeconds": 1, **V1}, "need autoscaler v2"),
    ({f"{GPU}.priority": 1, f"{CLUSTER}.rayVersion": "2.55.0"}, "needs Ray 2.56"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[" ".join(changes) for changes, _ in REFUSED])
def test_each_rule_refuses_what_breaks_it(changes: dict[str, Any], message: str) -> None:
    [error] = rule_errors(with_changes(changes))
    assert message in error


def test_the_autoscaler_has_one_version() -> None:
    job = small_job()
    container = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": "RAY_enable_autoscaler_v2", "value": "1"}]
    assert rule_errors(job) == ["the autoscaler's version belongs into autoscalerOptions"]


def cron(schedule: str, name: str = "nightly") -> Manifest:
    spec = {"schedule": schedule, "jobTemplate": small_job()["spec"]}
    return {"apiVersion": "ray.io/v1", "kind": "RayCronJob", "metadata": {"name": name}, "spec": spec}


def test_rules_of_a_raycronjob() -> None:
    assert rule_errors(cron("30 1 * * *")) == []
    assert rule_errors(cron("TZ=UTC 30 1 * * *")) == ["the time zone belongs into timeZone"]
    assert rule_errors(cron("30 1 * *")) == ["the schedule is not five fields"]
    assert rule_errors(cron("30 1 * * *", name="n" * 37)) == ["the name is no DNS label of at most 36 characters"]
    broken = cron("30 1 * * *")
    broken["spec"]["jobTemplate"] |= {"suspend": True, "shutdownAfterJobFinishes": False}
    assert rule_errors(broken) == ["suspend needs shutdownAfterJobFinishes"]


def test_the_schemas_know_a_good_job() -> None:
    assert schema_errors(small_job()) == []
    assert schema_errors(cron("30 1 * * *")) == []


UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({"spec.activeDeadlineSecond": 1}, "spec: "),
    ({"spec.backoffLimit": "2"}, "spec.backoffLimit: "),
    ({f"{CLUSTER}.headGroupSpec.template.spec.volume": []}, "spec.rayClusterSpec.headGroupSpec.template.spec: "),
    ({f"{GPU}.template.spec.containers.0.securityContext": {"readOnly": True}}, "securityContext: "),
    ({f"{GPU}.replicaz": 1}, "spec.rayClusterSpec.workerGroupSpecs.0: "),
    ({f"{CLUSTER}.authOptions": {"mode": "password"}}, "spec.rayClusterSpec.authOptions.mode: "),
]


@pytest.mark.parametrize(("changes", "place"), UNKNOWN, ids=[place for _, place in UNKNOWN])
def test_the_schemas_are_strict(changes: dict[str, Any], place: str) -> None:
    [error] = schema_errors(with_changes(changes))
    assert place in error


def test_a_raycronjob_knows_no_concurrency_policy() -> None:
    manifest = cron("30 1 * * *")
    manifest["spec"]["concurrencyPolicy"] = "Forbid"
    [error] = schema_errors(manifest)
    assert "concurrencyPolicy" in error
