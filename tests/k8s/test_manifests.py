"""The manifests as they reach a cluster are valid."""

import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.k8s.built import FOLDERS, K8S, built, one
from tests.k8s.kuberay import rule_errors, schema_errors
from tests.k8s.pods import Manifest

KUBERNETES = ("1.32", "1.37")
RAY_KINDS = {"RayJob", "RayCronJob"}
OPERATOR_KINDS = {"PodMonitor", "PrometheusRule"}

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

ALL = [
    pytest.param(manifest, id=f"{folder}:{manifest['kind']}/{manifest['metadata']['name']}")
    for folder in FOLDERS
    for manifest in built(folder)
]
RAY = [case for case in ALL if str(case.id).split(":")[1].split("/")[0] in RAY_KINDS]
CORE = [case for case in ALL if case not in RAY and str(case.id).split(":")[1].split("/")[0] not in OPERATOR_KINDS]


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
