"""As much of kustomize as the manifests use, so that they are checked where no kubectl is installed.

A test compares it with the real one where that is at hand. What it does not know it refuses.
"""

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
NOT_IN_A_NAMESPACE = {"Namespace"}


def build(folder: Path) -> list[Manifest]:
    """What `kubectl kustomize FOLDER` prints, in another order."""
    settings = _load(folder / "kustomization.yaml")
    manifests = [manifest for name in settings.get("resources", []) for manifest in _resource(folder / name)]
    unknown = set(settings) - {"apiVersion", "kind", "resources"} - set(_STEPS)
    assert not unknown, f"not known here: {unknown}"
    for key, step in _STEPS.items():
        if key in settings:
            step(folder, manifests, settings[key])
    return manifests


def _load(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _resource(path: Path) -> list[Manifest]:
    if path.is_dir():
        return build(path)
    # Anchors are shared objects for PyYAML: a patch of one must not change the other.
    text = path.read_text(encoding="utf-8")
    return [_unshared(manifest) for manifest in yaml.safe_load_all(text)]


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def _config_maps(folder: Path, manifests: list[Manifest], generators: list[Manifest]) -> None:
    for generator in generators:
        assert set(generator) - {"options"} == {"name", "files"}, generator
        options = generator.get("options", {})
        assert set(options) <= {"labels"}, options
        data = {name: (folder / name).read_text(encoding="utf-8") for name in generator["files"]}
        metadata = {"name": generator["name"], **options}
        manifests.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def _names_stay(folder: Path, manifests: list[Manifest], options: Manifest) -> None:
    assert options == {"disableNameSuffixHash": True}


def _namespace(folder: Path, manifests: list[Manifest], namespace: str) -> None:
    for manifest in manifests:
        if manifest["kind"] not in NOT_IN_A_NAMESPACE:
            manifest["metadata"]["namespace"] = namespace
        for subject in manifest.get("subjects", []):
            subject["namespace"] = namespace


def _images(folder: Path, manifests: list[Manifest], images: list[Manifest]) -> None:
    for image in images:
        assert set(image) == {"name", "newName", "newTag"}, image
        for container in containers(manifests):
            if re.fullmatch(rf"{re.escape(image['name'])}(:.*)?", container["image"]):
                container["image"] = f"{image['newName']}:{image['newTag']}"


def containers(value: Any) -> Iterator[Manifest]:
    """All containers anywhere below."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("containers", "initContainers"):
                yield from inner
            else:
                yield from containers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from containers(inner)


def _patches(folder: Path, manifests: list[Manifest], patches: list[Manifest]) -> None:
    for patch in patches:
        for manifest in select(manifests, **patch["target"]):
            for operation in yaml.safe_load(patch["patch"]):
                _patch(manifest, **operation)


def select(manifests: list[Manifest], kind: str, name: str) -> list[Manifest]:
    found = [manifest for manifest in manifests if (manifest["kind"], manifest["metadata"]["name"]) == (kind, name)]
    assert found, f"there is no {kind} {name}"
    return found


def _patch(manifest: Manifest, op: str, path: str, value: Any) -> None:
    """One operation of RFC 6902, on a field of a mapping or an existing item of a list."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in path.removeprefix("/").split("/")]
    parent: Any = manifest
    for part in parents:
        parent = parent[_key(parent, part)]
    key = _key(parent, last)
    if op == "test":
        assert parent[key] == value, path
        return
    assert op == "replace" or (op == "add" and isinstance(parent, dict)), op
    assert op == "add" or parent[key] is not None, path
    parent[key] = value


def _key(parent: Any, part: str) -> str | int:
    return int(part) if isinstance(parent, list) else part


def _replacements(folder: Path, manifests: list[Manifest], replacements: list[Manifest]) -> None:
    for replacement in replacements:
        [source] = select(manifests, replacement["source"]["kind"], replacement["source"]["name"])
        value = _at(source, replacement["source"]["fieldPath"])
        for target in replacement["targets"]:
            for manifest in select(manifests, **target["select"]):
                for path in target["fieldPaths"]:
                    *parents, last = path.split(".")
                    _at(manifest, ".".join(parents))[last] = copy.deepcopy(value)


def _at(manifest: Manifest, path: str) -> Any:
    value: Any = manifest
    for part in path.split("."):
        value = value[part]
    return value


# In kustomize's order, whatever that of the file.
_STEPS: dict[str, Callable[[Path, list[Manifest], Any], None]] = {
    "generatorOptions": _names_stay,
    "configMapGenerator": _config_maps,
    "patches": _patches,
    "namespace": _namespace,
    "images": _images,
    "replacements": _replacements,
}
