"""The Dockerfile, as far as it can be judged without building it."""

import fnmatch
import io
import re
import tomllib
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser

from tests.k8s.built import one, ray_groups
from tests.k8s.kuberay import ROOT

FILE = ROOT / "k8s" / "Dockerfile"


def instructions(text: str) -> list[tuple[str, str]]:
    parser = DockerfileParser(fileobj=io.BytesIO(text.encode()))
    return [(line["instruction"], line["value"]) for line in parser.structure if line["instruction"] != "COMMENT"]


def values(name: str) -> list[str]:
    return [value for instruction, value in instructions(FILE.read_text(encoding="utf-8")) if instruction == name]


def last_stage() -> dict[str, str]:
    found = instructions(FILE.read_text(encoding="utf-8"))
    start = max(number for number, (name, _) in enumerate(found) if name == "FROM")
    return dict(found[start + 1 :])


def arguments() -> dict[str, str]:
    return dict(pair.split("=", 1) for value in values("ARG") for pair in value.split())


def test_every_instruction_is_one() -> None:
    known = {"ARG", "FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions(FILE.read_text(encoding="utf-8"))} == known


def ignored(path: str) -> bool:
    """What of the build's context .dockerignore leaves out; the last line that fits decides."""
    first, *deeper = path.split("/")
    is_out = False
    for line in (FILE.parent / "Dockerfile.dockerignore").read_text(encoding="utf-8").split():
        pattern = line.removeprefix("!")
        places = [first, *deeper] if pattern.startswith("**/") else [first]
        if any(fnmatch.fnmatch(place, pattern.removeprefix("**/")) for place in places):
            is_out = not line.startswith("!")
    return is_out


def test_what_is_copied_is_there_and_sent_to_the_builder() -> None:
    sources = [name for value in values("COPY") if "--from=" not in value for name in value.split()[:-1]]
    assert set(sources) == {"pyproject.toml", "README.md", "LICENSE", "star_batch", "jobs"}
    for source in sources:
        assert (ROOT / source).exists()
        assert not ignored(source)


@pytest.mark.parametrize("path", [".git/config", "tests/tiny.py", "k8s/Dockerfile", "star_batch/__pycache__/a.pyc"])
def test_nothing_else_is_sent_to_the_builder(path: str) -> None:
    assert ignored(path)


def test_what_is_copied_is_enough_to_build_the_package() -> None:
    project: Any = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    copied = {name for value in values("COPY") if "--from=" not in value for name in value.split()[:-1]}
    assert needed <= copied


def test_every_image_is_pinned() -> None:
    stages = {value.split()[-1] for value in values("FROM") if " AS " in value}
    images = {value.split()[0] for value in values("FROM")} - stages
    assert images == {"ghcr.io/astral-sh/uv:${UV}", "nvidia/cuda:${CUDA}"}
    assert all(re.match(r"\d+\.\d+\.\d+", version) for version in arguments().values())


def test_it_runs_as_nobody_special() -> None:
    stage = last_stage()
    assert stage["USER"] == "1000:1000"
    assert stage["HEALTHCHECK"] == "NONE"
    assert one("base", "RayJob")["spec"]["submitterPodTemplate"]["spec"]["securityContext"]["runAsUser"] == 1000


def test_weights_are_cached_where_the_volume_is() -> None:
    assert "HF_HOME=/models" in last_stage()["ENV"].split()
    for group in ray_groups("base"):
        mounts = {mount["mountPath"] for mount in group["template"]["spec"]["containers"][0]["volumeMounts"]}
        assert "/models" in mounts


def test_ray_is_the_one_that_the_job_names() -> None:
    assert arguments()["RAY"] == one("base", "RayJob")["spec"]["rayClusterSpec"]["rayVersion"]


def test_the_commands_of_the_manifests_are_on_the_path() -> None:
    assert "PATH=/opt/star-batch/bin:$PATH" in last_stage()["ENV"].split()
    assert "VIRTUAL_ENV=/opt/star-batch" in " ".join(values("ENV"))
    assert "--from=build /opt/star-batch /opt/star-batch" in values("COPY")
