"""A method, a model family, an input format and a job of somebody's own package, by one registration each, in every
process that needs them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from star_batch.errors import ConfigError
from star_batch.models import FAMILIES, register_family
from star_batch.models.llava import Llava
from star_batch.models.llava_next import LlavaNext
from star_batch.plugins import Registry
from star_batch.pruning import METHODS, Pruning, StarPruning, register_method
from tests.pipeline.samples import png
from tests.tiny import save_tiny

ROOT = Path(__file__).parent.parent
PLUGIN = Path(__file__).parent / "plugin"


def install(site: Path, name: str, entry_points: dict[str, str]) -> Path:
    """What an installer leaves in a folder of packages, without the package."""
    about = site / f"{name.replace('-', '_')}-1.2.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    lines = [f"{point} = {value}" for point, value in entry_points.items()]
    (about / "entry_points.txt").write_text("\n".join(["[star_batch.plugins]", *lines, ""]))
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages in which the method is installed."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(PLUGIN / "corners.py", folder / "star_corners.py")
    return install(folder, "star-corners", {"corners": "star_corners"})


@pytest.fixture(scope="module")
def sites(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That one, and another in which the family and the format are installed."""
    folder = tmp_path_factory.mktemp("other_site")
    for name in ("corner_llava", "lines"):
        shutil.copy(PLUGIN / f"{name}.py", folder)
    install(folder, "corner-llava", {"llava": "corner_llava:register", "lines": "lines"})
    return Path(f"{site}{os.pathsep}{folder}")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the family that only the plugin knows."""
    folder = tmp_path_factory.mktemp("model")
    save_tiny(folder)
    file = folder / "config.json"
    values = json.loads(file.read_text()) | {"model_type": "corner_llava"}
    file.write_text(json.dumps(values))
    return folder


def python(site: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A new process in which the packages of `site` are installed."""
    paths = {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=250, check=False, env=os.environ | paths | environment
    )


def star_batch(site: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return python(site, "-m", "star_batch", *arguments, **environment)


ANSWER = """
import copy, dataclasses, pickle, sys
from star_batch import Engine, Pruning
from star_batch.pruning import METHODS
from tests.tiny import NUM_VISUAL, random_records

pruning = Pruning(method="corners", keep=4, ends=0.25)
assert type(pruning) is METHODS["corners"] and isinstance(pruning, Pruning)
assert pickle.loads(pickle.dumps(pruning)) == copy.deepcopy(pruning) == dataclasses.replace(pruning) == pruning
records = [dataclasses.replace(record, with_kept=True) for record in random_records(3)]
with Engine.from_pretrained(sys.argv[1], pruning=pruning, dtype="float32") as engine:
    answers = engine.answer(records)
assert [answer.kept for answer in answers] == [((0, 1, 2, NUM_VISUAL - 1),)] * 3, answers
"""


def test_the_engine_takes_a_method_and_a_family_of_a_plugin(sites: Path, checkpoint: Path) -> None:
    done = python(sites, "-c", ANSWER, checkpoint)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.ray
def test_a_job_takes_a_method_a_family_and_a_format_of_plugins(sites: Path, checkpoint: Path, tmp_path: Path) -> None:
    """The job is somebody's own script, and workers of the cluster load the plugins for themselves."""
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    lines = [json.dumps({"image": f"{number}.png", "word": f"w{number}"}) for number in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, json.dumps({"image": "gone.png", "word": "w1"})]))
    job = tmp_path / "job.yaml"
    pruning = {"method": "corners", "keep": 4, "ends": 0.25}
    job.write_text(yaml.safe_dump({"input": {"kind": "plain_lines"}, "pruning": pruning}))
    places = ["--input", tmp_path / "rows.jsonl", "--output", tmp_path / "out", "--model", checkpoint]
    asked = ["--prompt", "w1 {word}", "--max-new-tokens", 4]
    done = python(sites, PLUGIN / "polite.py", job, *places, *asked, "--quiet")
    assert done.returncode == 0, done.stderr
    answers = pq.read_table(tmp_path / "out" / "answers").sort_by("id").to_pylist()
    assert [row["id"] for row in answers] == [f"rows.jsonl:{number}" for number in range(7)]
    assert [row["num_kept"] for row in answers[:6]] == [[4]] * 6
    assert answers[6]["error_type"] == "image_fetch_failed"
    about = json.loads((tmp_path / "out" / "_run.json").read_text())
    assert about["fingerprint"]["parts"]["pruning.ends"] == 0.25
    assert about["config"]["input"]["prompt"] == "w7 {word}"
    assert star_batch(sites, "verify", tmp_path / "out", "--quiet").returncode == 0


def test_a_format_that_nobody_has_is_named_with_those_there_are(sites: Path, tmp_path: Path) -> None:
    job = {"--input": tmp_path, "--output": tmp_path / "out", "--model": "demo", "--prompt": "?", "--kind": "liness"}
    done = star_batch(sites, "run", *(word for pair in job.items() for word in pair))
    assert done.returncode == 2
    [said] = [line for line in done.stderr.splitlines() if "'liness' is not known; choose one of parquet," in line]
    assert said.endswith("plain_lines")


PARSE = """
import sys, yaml
from star_batch.config import parse_config
from star_batch.errors import ConfigError

others = {"input": {"path": "x", "prompt": "?"}, "output": "y", "model": "demo"}
for section in sys.argv[1:]:
    try:
        parse_config(others | {"pruning": yaml.safe_load(section)}, "job.yaml")
    except ConfigError as error:
        print(error)
"""


WRONG = {
    "{method: corners, keep: 4, ends: 2.0}": "pruning.ends=2.0: a picture has two ends, give a part of it",
    "{method: corners, keep: 4, ends: half}": "pruning.ends: expected a number, not 'half'",
    "{method: corners, keep: 4, end: 0.5}": "pruning.end: unknown key; did you mean ends?",
    "{method: corners, ends: 0.5}": "pruning.method='corners' needs keep: a number of tokens or a share",
    "{method: star, keep: 4, ends: 0.25}": "pruning.ends=0.25 belongs to method='corners', not to 'star'",
    "{method: corners, keep: 4, late_layer: 2}": (
        "pruning.late_layer=2 belongs to method='star' or method='fastv', not to 'corners'"
    ),
    "{method: corner, keep: 4}": (
        f"pruning.method: expected {', '.join(map(repr, METHODS.loaded))} or 'corners', not 'corner'"
    ),
}


def test_wrong_fields_are_refused_in_the_words_of_the_method(site: Path) -> None:
    expected = [line for message in WRONG.values() for line in ("job.yaml:", f"  {message}")]
    done = python(site, "-c", PARSE, *WRONG)
    assert (done.stdout.splitlines(), done.stderr) == (expected, "")


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder of packages with a plugin that needs what is not installed."""
    (tmp_path / "star_broken.py").write_text("import nowhere_to_be_found\n")
    return install(tmp_path, "star-broken", {"broken": "star_broken"})


ASK = "from star_batch import Pruning; Pruning(method='corners', keep=4)"


def test_a_plugin_that_cannot_be_loaded_is_named(broken: Path) -> None:
    job = ["--input", "x", "--output", "y", "--model", "demo", "--prompt", "?"]
    done = star_batch(broken, "run", *job, "--method", "corners", "--keep", 4)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    reason = "cannot be loaded: ModuleNotFoundError: No module named 'nowhere_to_be_found'"
    assert f"the plugin 'broken' of star-broken 1.2 (star_broken) {reason}" in " ".join(done.stderr.split())
    assert "star_batch.errors.PluginError" in python(broken, "-c", ASK).stderr


def test_a_plugin_that_cannot_be_loaded_stops_nobody_who_does_not_need_it(broken: Path, site: Path) -> None:
    assert python(broken, "-c", ASK.replace("corners", "star")).returncode == 0
    both = Path(f"{broken}{os.pathsep}{site}")
    assert python(both, "-c", ASK).returncode == 0


def test_a_plugin_is_loaded_once_and_only_where_one_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "star_loud.py").write_text("def register(): print('called')\n")
    install(tmp_path, "star-loud", {"loud": "star_loud:register"})
    quiet = python(tmp_path, "-c", ASK.replace("corners", "star"))
    assert (quiet.returncode, quiet.stdout) == (0, "")
    assert star_batch(tmp_path, "--help").stdout.count("called") == 0
    twice = "from star_batch.pruning import METHODS; 'x' in METHODS, 'y' in METHODS, list(METHODS)"
    assert python(tmp_path, "-c", twice).stdout == "called\n"


def test_a_name_that_is_taken_is_refused() -> None:
    register_method(StarPruning)  # again: nothing happens
    with pytest.raises(ConfigError, match=r"model family 'llava' is registered already, by star_batch\.models\.llava"):
        register_family("llava", LlavaNext)
    assert FAMILIES["llava"] is Llava
    numbers = Registry("number", {"one": 1})
    numbers.register("two", 2)
    assert dict(numbers) == {"one": 1, "two": 2}
    with pytest.raises(ConfigError, match="the number 'one' is registered already"):
        numbers.register("one", 3)


def test_only_a_methods_options_are_registered_as_a_method() -> None:
    before = list(METHODS)
    for wrong in (Pruning, Llava, Pruning()):
        with pytest.raises(ConfigError, match="is no pruning method: give a subclass of Pruning"):
            register_method(wrong)  # type: ignore[arg-type]
    assert list(METHODS) == before


def test_a_job_with_a_method_is_checked_without_torch(tmp_path: Path) -> None:
    code = f"{PARSE}\nassert not {{'torch', 'transformers', 'ray'}} & set(sys.modules)"
    done = python(tmp_path, "-c", code, "{method: star, keep: 4}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
