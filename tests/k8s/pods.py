"""Finds the pods that manifests describe, wherever they are, and judges each as the cluster would."""

import re
from collections.abc import Iterator
from typing import Any

Manifest = dict[str, Any]
UNITS = {"": 1.0, "m": 1e-3, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


def pods(value: Any) -> Iterator[Manifest]:
    """Every pod's spec anywhere below."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield value
        for inner in value.values():
            yield from pods(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pods(inner)


def quantity(text: str | int) -> float:
    """`8Gi`, `250m` or `2` as a number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([A-Za-z]*)", str(text))
    assert match, text
    return float(match[1]) * UNITS[match[2]]


def not_restricted(pod: Manifest) -> list[str]:
    """What the Pod Security Standard `restricted`, and a read-only root, have against a pod."""
    security = pod.get("securityContext", {})
    errors = []
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        errors.append("may run as root")
    if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        errors.append("no seccomp profile")
    if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        errors.append("shares the host's namespaces")
    if any({"hostPath", "nfs"} & set(volume) for volume in pod.get("volumes", [])):
        errors.append("mounts what is not its own")
    return [*errors, *(error for container in pod["containers"] for error in not_confined(container))]


def not_confined(container: Manifest) -> list[str]:
    security = container.get("securityContext", {})
    expected = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    return [f"{container.get('name')}: {key}" for key, value in expected.items() if security.get(key) != value]


def broken_mounts(pod: Manifest) -> list[str]:
    """Mounts without a volume, volumes without a mount, and no place to write temporary files."""
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    mounts = [mount for container in pod["containers"] for mount in container.get("volumeMounts", [])]
    return sorted(volumes ^ {mount["name"] for mount in mounts})


def open_secrets(value: Any) -> list[str]:
    """Environment variables that hold a secret in the open."""
    if isinstance(value, dict):
        here = [value["name"]] if "name" in value and "value" in value and SECRET.search(str(value["name"])) else []
        return [*here, *(name for inner in value.values() for name in open_secrets(inner))]
    return [name for inner in value for name in open_secrets(inner)] if isinstance(value, list) else []
