"""What KubeRay v1.7.0 accepts: its schemas, made strict, and the rules of its Go code that no schema holds.

The rules are those of `ray-operator/controllers/ray/utils/validation.go` and the CEL rules in the schemas, as far as a
manifest of ours could ever break them. The schemas themselves are not part of this project: KUBERAY_CRDS names their
folder.
"""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

Manifest = dict[str, Any]

ROOT = Path(__file__).parent.parent.parent
FILES = {"RayJob": "rayjobs.yaml", "RayCronJob": "raycronjobs.yaml"}
MAX_NAME = {"RayJob": 47, "RayCronJob": 36}
FIRST_RAY_WITH_TOKENS = (2, 52)
FIRST_RAY_WITH_PRIORITY = (2, 56)
DELETIONS = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
GATED = ("networkPolicy", "tlsOptions", "historyServerOptions")


def crds() -> Path:
    """The folder with the schemas; the test that asks is skipped where there is none."""
    given = os.environ.get("KUBERAY_CRDS")
    folder = Path(given) if given else ROOT.parent / "shared" / "kuberay_crds_v1.7.0"
    missing = [file for file in FILES.values() if not (folder / file).is_file()]
    if missing:
        pytest.skip(f"KubeRay's schemas are not at hand: KUBERAY_CRDS={folder} lacks {', '.join(missing)}")
    return folder


def schema_errors(manifest: Manifest) -> list[str]:
    """What the strict schema of the manifest's kind says against it."""
    errors = _validator(crds() / FILES[manifest["kind"]]).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in errors]


@cache
def _validator(file: Path) -> jsonschema.Draft202012Validator:
    crd = yaml.load(file.read_bytes(), yaml.CSafeLoader)
    version = next(version for version in crd["spec"]["versions"] if version["name"] == "v1")
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def _strict(schema: Any) -> Any:
    """Unknown fields are errors; what may be a number or text may be either."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    strict = {
        key: {name: _strict(inner) for name, inner in value.items()} if key == "properties" else _strict(value)
        for key, value in schema.items()
    }
    if "properties" in strict and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict


def rule_errors(manifest: Manifest) -> list[str]:
    """What KubeRay's own code would say against a RayJob or a RayCronJob."""
    spec = manifest["spec"]
    if manifest["kind"] == "RayCronJob":
        return [*_name(manifest), *_schedule(spec["schedule"]), *_job(spec["jobTemplate"])]
    return [*_name(manifest), *_job(spec)]


def _name(manifest: Manifest) -> Iterator[str]:
    name, longest = manifest["metadata"]["name"], MAX_NAME[manifest["kind"]]
    if len(name) > longest or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"the name is no DNS label of at most {longest} characters"


def _schedule(schedule: str) -> Iterator[str]:
    if "TZ" in schedule:
        yield "the time zone belongs into timeZone"
    elif len(schedule.split()) != 5 and not schedule.startswith("@"):
        yield "the schedule is not five fields"


def _job(spec: Manifest) -> Iterator[str]:
    shuts_down, cluster = spec.get("shutdownAfterJobFinishes", False), spec.get("rayClusterSpec")
    if spec.get("suspend") and not shuts_down:
        yield "suspend needs shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        yield "ttlSecondsAfterFinished is negative"
    if spec.get("ttlSecondsAfterFinished", 0) and not shuts_down:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(key, 1) <= 0:
            yield f"{key} must be positive"
    if spec.get("backoffLimit", 0) < 0:
        yield "backoffLimit is negative"
    yield from _modes(spec)
    yield from _deletion(spec)
    if cluster is not None:
        yield from _cluster(cluster)


def _modes(spec: Manifest) -> Iterator[str]:
    mode, selector = spec.get("submissionMode", "K8sJobMode"), spec.get("clusterSelector")
    retries = spec.get("backoffLimit", 0) > 0
    if not selector and "rayClusterSpec" not in spec:
        yield "one of rayClusterSpec and clusterSelector must be set"
    if selector and (spec.get("suspend") or retries or mode == "SidecarMode"):
        yield "clusterSelector excludes suspend, backoffLimit and SidecarMode"
    if mode == "InteractiveMode" and retries:
        yield "InteractiveMode excludes backoffLimit"
    if mode == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        yield "SidecarMode excludes submitterPodTemplate and submitterConfig"


def _deletion(spec: Manifest) -> Iterator[str]:
    strategy = spec.get("deletionStrategy")
    if strategy is None:
        return
    rules, legacy = strategy.get("deletionRules"), {"onSuccess", "onFailure"} & set(strategy)
    if rules and spec.get("shutdownAfterJobFinishes"):
        yield "deletionRules exclude shutdownAfterJobFinishes"
    if rules and legacy:
        yield "deletionRules exclude onSuccess and onFailure"
    if not rules and len(legacy) < 2:
        yield "deletionStrategy needs deletionRules, or both onSuccess and onFailure"
    policies = [rule["policy"] for rule in rules or [strategy[key] for key in legacy]]
    if "DeleteWorkers" in policies and spec.get("rayClusterSpec", {}).get("enableInTreeAutoscaling"):
        yield "DeleteWorkers excludes autoscaling"
    for rule in rules or []:
        if len({"jobStatus", "jobDeploymentStatus"} & set(rule["condition"])) != 1:
            yield "a deletion condition is one of jobStatus and jobDeploymentStatus"
    yield from _deletion_order(rules or [])


def _deletion_order(rules: list[Manifest]) -> Iterator[str]:
    times: dict[str, dict[str, int]] = {}
    for rule in rules:
        condition = rule["condition"]
        state = condition.get("jobStatus") or condition.get("jobDeploymentStatus", "")
        by_policy = times.setdefault(state, {})
        if rule["policy"] in by_policy:
            yield f"two rules for {rule['policy']} at {state}"
        by_policy[rule["policy"]] = condition.get("ttlSeconds", 0)
    for state, by_policy in times.items():
        in_order = [by_policy[policy] for policy in DELETIONS if policy in by_policy]
        if in_order != sorted(in_order):
            yield f"at {state}, workers go before the cluster and the cluster before the job"


def _cluster(spec: Manifest) -> Iterator[str]:
    autoscales = spec.get("enableInTreeAutoscaling", False)
    is_v2 = spec.get("autoscalerOptions", {}).get("version") == "v2"
    head = spec["headGroupSpec"]
    yield from (f"{key} needs a feature gate that is off" for key in GATED if key in spec)
    yield from _tokens(spec)
    yield from _group("head", head)
    environment = [env for container in head["template"]["spec"]["containers"] for env in container.get("env", [])]
    if any(env["name"] == "RAY_enable_autoscaler_v2" for env in environment):
        yield "the autoscaler's version belongs into autoscalerOptions"
    for group in spec.get("workerGroupSpecs", []):
        name = group["groupName"]
        yield from _group(name, group)
        yield from _replicas(name, group, autoscales=autoscales)
        if ("idleTimeoutSeconds" in group or group.get("priority")) and not is_v2:
            yield f"{name}: idleTimeoutSeconds and priority need autoscaler v2"
        if group.get("priority") and ray_version(spec) < FIRST_RAY_WITH_PRIORITY:
            yield f"{name}: priority needs Ray 2.56"
        if group.get("suspend") and autoscales:
            yield f"{name}: suspend excludes autoscaling"
    for group in [head, *spec.get("workerGroupSpecs", [])] if autoscales and is_v2 else []:
        if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield "with autoscaler v2 the restartPolicy must be Never"


def ray_version(spec: Manifest) -> tuple[int, ...]:
    return tuple(int(part) for part in spec.get("rayVersion", "0").split(".")[:2])


def _tokens(spec: Manifest) -> Iterator[str]:
    auth = spec.get("authOptions", {})
    if auth.get("mode") == "token" and ray_version(spec) < FIRST_RAY_WITH_TOKENS:
        yield "token authentication needs Ray 2.52"
    if auth.get("enableK8sTokenAuth"):
        yield "a RayJob cannot use Kubernetes' own tokens"


def _group(name: str, group: Manifest) -> Iterator[str]:
    start = group.get("rayStartParams", {})
    if not group["template"]["spec"].get("containers"):
        yield f"{name}: no container"
    if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(start):
        yield f"{name}: resources in two places"
    if "labels" in start:
        yield f"{name}: labels belong beside rayStartParams"


def _replicas(name: str, group: Manifest, *, autoscales: bool) -> Iterator[str]:
    low, high = group.get("minReplicas"), group.get("maxReplicas")
    if not autoscales and (low is None or high is None):
        yield f"{name}: minReplicas and maxReplicas are needed without autoscaling"
    if (low or 0) < 0 or (high or 0) < 0:
        yield f"{name}: negative replicas"
    if low is not None and high is not None and low > high:
        yield f"{name}: minReplicas above maxReplicas"
