"""What the README files say is so: links lead somewhere, settings are settings, commands and rooms are there."""

import ast
import importlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from star_batch.cli import app
from star_batch.config import load_config

ROOT = Path(__file__).parent.parent
MAIN = ROOT / "README.md"
MAX_MAIN_LINES = 200
FOLDERS = ("star_batch", "jobs", "k8s")
PAGES = [MAIN, *sorted(page for folder in FOLDERS for page in (ROOT / folder).rglob("README.md"))]
JOB = {"input": {"path": "in", "prompt": "what is it?"}, "output": "out", "model": "demo"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", text(page), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if "://" not in link]


def test_the_main_page_is_short() -> None:
    assert len(text(MAIN).splitlines()) <= MAX_MAIN_LINES


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), link
        assert there.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(there), link


def test_the_main_page_leads_to_every_other() -> None:
    met, ahead = set[Path](), [MAIN]
    while ahead:
        page = ahead.pop()
        met.add(page)
        found = {(page.parent / link.partition("#")[0]).resolve() for link in links(page) if not link.startswith("#")}
        ahead += [other for other in found if other.name == "README.md" and other not in met]
    assert met == set(PAGES)


def test_the_main_pages_job_is_a_job(tmp_path: Path) -> None:
    [job] = blocks(MAIN, "yaml")
    file = tmp_path / "job.yaml"
    file.write_text(job, encoding="utf-8")
    config = load_config(file, {})
    assert (config.pruning.method, config.pruning.keep) == ("star", 128)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_yaml_is_a_job_or_a_part_of_one(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "yaml"):
        written = yaml.safe_load(block)
        if "patches" in written:  # of an overlay: kustomize's, not ours
            continue
        input = {**JOB["input"], **written.get("input", {})}  # type: ignore[dict-item]
        file = tmp_path / "job.yaml"
        file.write_text(yaml.safe_dump({**JOB, **written, "input": input}), encoding="utf-8")
        load_config(file, {})


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_key_that_is_set_is_one(page: Path, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(JOB), encoding="utf-8")
    for key, value in re.findall(r"--set ([a-z_]+\.[a-z_]+)=([^\s`]+)", text(page)):
        load_config(file, {key: yaml.safe_load(value)})


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_shell_and_python_understand_every_block(page: Path) -> None:
    shell = "\n".join(blocks(page, "sh"))
    done = subprocess.run(["bash", "-n"], input=shell, text=True, capture_output=True, timeout=10, check=False)
    assert done.returncode == 0, done.stderr
    for block in blocks(page, "python"):
        ast.parse(block)


def commands(page: Path) -> Iterator[list[str]]:
    """Everything after `star-batch`, from blocks and from the text between backticks."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    for line in [*lines, *re.findall(r"`(star-batch [^`]+)`", prose(page))]:
        typed = re.search(r"(?:^|uv run )star-batch\s+(.*)", line)
        if typed is not None:
            yield shlex.split(typed[1], comments=True)


def known_options(words: list[str]) -> tuple[str, set[str]]:
    """The command that these words name, and its options."""
    command: Any = get_command(app)
    path: list[str] = []
    for word in words:
        inner = getattr(command, "commands", {})
        if word not in inner:
            break
        command = inner[word]
        path.append(word)
    return " ".join(path), {option for p in command.params for option in (*p.opts, *p.secondary_opts)}


def test_every_option_that_is_typed_is_one() -> None:
    for page in PAGES:
        for words in commands(page):
            command, options = known_options(words)
            assert command or words[0].startswith("--"), f"{name(page)}: {words}"
            assert not command.endswith("bench"), f"{name(page)}: {words}"
            given = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)}
            assert given <= options | {"--help"}, f"{name(page)}: {words}"


def test_every_name_that_is_imported_is_there() -> None:
    for page in PAGES:
        for block in blocks(page, "python"):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom):
                    module = importlib.import_module(node.module or "")
                    assert [a.name for a in node.names if not hasattr(module, a.name)] == [], name(page)


def rooms() -> set[str]:
    return {folder.parent.name for folder in (ROOT / "star_batch").glob("*/__init__.py")}


def test_every_room_has_a_line_in_the_map() -> None:
    page = ROOT / "star_batch" / "README.md"
    listed = set(re.findall(r"^\| \d \| `(\w+)/` \|", text(page), re.MULTILINE))
    assert rooms() - listed == set()
    for room in listed:
        assert room in rooms() or (ROOT / "star_batch" / f"{room}.py").is_file(), room


def test_the_map_names_files_that_are_there() -> None:
    page = ROOT / "star_batch" / "README.md"
    for file in re.findall(r"`([\w/]+\.py)`", text(page)):
        assert (page.parent / file).is_file(), file
