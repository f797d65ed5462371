"""The small kustomize of these tests, against the real one where that is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.k8s import kustomize
from tests.k8s.built import FOLDERS, K8S, built
from tests.k8s.pods import Manifest


def by_name(manifests: list[Manifest]) -> dict[str, Manifest]:
    return {f"{manifest['kind']}/{manifest['metadata']['name']}": manifest for manifest in manifests}


@pytest.mark.parametrize("folder", FOLDERS)
def test_kubectl_builds_the_same(folder: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here to compare with")
    command = ["kubectl", "kustomize", str(K8S / folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert by_name(built(folder)) == by_name(list(yaml.safe_load_all(done.stdout)))


def test_what_is_not_known_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("namePrefix: my-\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"not known here: .*namePrefix"):
        kustomize.build(tmp_path)


def test_a_patch_that_meets_nothing_is_refused(tmp_path: Path) -> None:
    patch = {"target": {"kind": "CronJob", "name": "gone"}, "patch": "[]"}
    settings = {"resources": [], "patches": [patch]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.raises(AssertionError, match="there is no CronJob gone"):
        kustomize.build(tmp_path)
