"""The page that a newcomer follows: its commands must mean what is in this repository."""

import re
import subprocess
from pathlib import Path

import yaml
from typer.testing import CliRunner

from k8s.base import launch
from star_batch.cli import app
from star_batch.config import load_config
from star_batch.demo.dataset import SCHEMA
from tests.k8s import kustomize
from tests.k8s.built import FOLDERS, K8S, built, one

PAGE = (K8S / "README.md").read_text(encoding="utf-8")
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))


def test_shell_understands_every_block() -> None:
    done = subprocess.run(["bash", "-n"], input=SHELL, text=True, capture_output=True, timeout=10, check=False)
    assert done.returncode == 0, done.stderr


def test_every_folder_that_is_applied_is_one() -> None:
    applied = re.findall(r"kubectl apply -k k8s/([\w/-]+)", PAGE)
    assert set(applied) == {"overlays/production", "monitoring", "raycronjob-alpha"} <= set(FOLDERS)


def test_every_file_that_is_named_is_there() -> None:
    for path in re.findall(r"\]\((?!http)([^)#]+)", PAGE):
        assert (K8S / path).exists(), path


def test_the_names_are_those_of_the_manifests() -> None:
    cron = one("base", "CronJob")["metadata"]["name"]
    assert set(re.findall(r"--from=cronjob/([\w-]+)", PAGE)) == {cron}
    assert set(re.findall(r"-n ([\w-]+)", SHELL)) == {one("base", "Namespace")["metadata"]["name"]}
    assert f"job/{launch.name_for('first-captions')}" in SHELL
    [secret] = re.findall(r"create secret generic ([\w-]+)", SHELL)
    assert {"secretRef": {"name": secret, "optional": True}} in [
        source for container in kustomize.containers(built("base")) for source in container.get("envFrom", [])
    ]


def test_what_is_to_be_replaced_is_replaced(tmp_path: Path) -> None:
    """The step's own command, on a copy."""
    command = f"cp -r {K8S}/base {K8S}/overlays {K8S}/raycronjob-alpha {tmp_path}/k8s && cd {tmp_path}"
    [replace] = re.findall(r"^grep .*$", SHELL, re.MULTILINE)
    script = f"mkdir {tmp_path}/k8s && {command} && export REGISTRY=r.example.com/x BUCKET=b && {replace}"
    subprocess.run(["bash", "-ec", script], check=True, timeout=10)
    found = kustomize.build(tmp_path / "k8s" / "overlays" / "production")
    assert "YOUR-" not in yaml.safe_dump(found)
    assert {container["image"] for container in kustomize.containers(found)} == {"r.example.com/x/star-batch:0.1.0"}
    job = next(manifest for manifest in found if manifest["kind"] == "RayJob")
    assert "--input s3://b/photos/{yesterday}/" in job["spec"]["entrypoint"]


def test_the_kuberay_installed_is_the_one_checked() -> None:
    assert re.findall(r"kuberay/kuberay-operator --version (\S+)", SHELL) == ["1.7.0"]


def test_star_batch_draws_what_is_uploaded() -> None:
    assert "star-batch demo --rows 200\naws s3 cp star-batch-demo/input/ " in SHELL
    job = load_config(K8S / "base" / "job.yaml", {"input.path": "in", "output.path": "out"})
    for option in ("--rows", "star-batch-demo"):
        assert option in CliRunner().invoke(app, ["demo", "--help"]).output
    assert {job.input.id_column, job.input.image_column} <= set(SCHEMA.names)
