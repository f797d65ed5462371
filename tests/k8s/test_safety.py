"""The manifests are safe: no pod may do more than it must, no secret is written."""

import pytest

from tests.k8s.built import FOLDERS, OUR_HOME, OVERLAYS, built, one
from tests.k8s.pods import Manifest, not_confined, not_restricted, open_secrets, pods


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
