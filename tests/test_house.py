"""The shape of the house: who may import whom, what the door shows, and that nothing local slipped in."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import star_batch

ROOT = Path(__file__).parent.parent
MAX_FUNCTION_LINES = 50
MAX_MODULE_LINES = 300

FLOORS = {
    "errors": 0,
    "wording": 0,
    "interruption": 0,
    "streams": 0,
    "plugins": 0,
    "logs": 1,
    "notebook": 2,
    "api": 7,
    "options": 1,
    "job_file": 1,
    "records": 1,
    "metrics": 1,
    "images": 1,
    "data_uri": 1,
    "formats": 1,
    "regular": 1,
    "home": 1,
    "pruning": 2,
    "models": 2,
    "storage": 2,
    "config": 2,
    "monitor": 2,
    "engine": 3,
    "commit": 3,
    "inputs": 4,
    "openai": 4,
    "report": 4,
    "export": 5,
    "pipeline": 5,
    "bench": 6,
    "forecast": 6,
    "demo": 6,
    "evaluation": 6,
    "cli": 7,
    "ray": 7,
    "jobs": 7,
    "__init__": 7,
    "__main__": 7,
}
STRANGERS = [
    ("pruning", "models"),
    ("models", "pruning"),
    ("engine", "commit"),
    ("commit", "engine"),
    *((room, other) for room in ("inputs", "openai", "report", "export") for other in ("models", "pruning", "engine")),
]
RAY_ROOMS = {"pipeline"}
SCENES = tuple(f"star_batch.demo.{name}" for name in ("scenes", "drawing", "questions", "rows"))


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def sources() -> list[str]:
    """Every file of code that is run, by its path."""
    files = [file for part in ("star_batch", "jobs", "k8s") for file in ROOT.glob(f"{part}/**/*.py")]
    return sorted(str(file.relative_to(ROOT)) for file in files)


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package and every job by its dotted name."""
    return {dotted(ROOT / name): parsed(ROOT / name) for name in sources() if not name.startswith("k8s")}


def dotted(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """`star_batch.engine.core` is in the room `engine`."""
    first, *rest = module.split(".")
    return first if first == "jobs" else rest[0] if rest else "__init__"


def imported(tree: ast.AST) -> Iterator[str]:
    """Names of all modules that are imported anywhere, functions and type checking included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            yield from (imported_from(node.module or "", alias.name) for alias in node.names)


def imported_from(module: str, name: str) -> str:
    return f"{module}.{name}" if f"{module}.{name}" in modules() else module


def own_imports(module: str) -> set[str]:
    """Modules of the package that `module` imports; the version number is no import of the door."""
    tree = modules()[module]
    own = {name for name in imported(tree) if name.split(".")[0] in ("star_batch", "jobs")}
    return own - {module} - ({"star_batch"} if takes_only_the_version(tree) else set())


def takes_only_the_version(tree: ast.Module) -> bool:
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "star_batch"]
    names = {alias.name for node in nodes for alias in node.names if f"star_batch.{alias.name}" not in modules()}
    return names <= {"__version__"}


@pytest.mark.parametrize("module", modules())
def test_imports_never_go_upwards(module: str) -> None:
    floor = FLOORS[room(module)]
    for other in own_imports(module):
        assert FLOORS[room(other)] <= floor, f"{module} imports {other} from above"
        assert (room(module), room(other)) not in STRANGERS, f"{module} meets {other}"


@pytest.mark.parametrize("module", SCENES)
def test_the_scenes_know_only_numpy_and_pillow(module: str) -> None:
    names = {name if name in SCENES else name.split(".")[0] for name in imported(modules()[module])}
    assert names - set(sys.stdlib_module_names) - set(SCENES) <= {"numpy", "PIL"}


def test_no_module_below_the_doors_imports_the_demo() -> None:
    users = {module for module in modules() if any(room(name) == "demo" for name in own_imports(module))}
    assert {room(module) for module in users} <= {"demo", "bench", "cli", "jobs"}


def test_there_is_no_import_circle() -> None:
    TopologicalSorter({module: own_imports(module) for module in modules()}).prepare()


def test_ray_lives_in_the_pipeline() -> None:
    users = {module for module, tree in modules().items() if "ray" in {n.split(".")[0] for n in imported(tree)}}
    assert {room(module) for module in users} <= RAY_ROOMS


def test_parquet_is_read_through_one_door() -> None:
    """Whoever reads a file past it resolves what extension types the file brings, and may run their code."""
    readers = {"read_table", "read_schema", "read_metadata", "ParquetFile", "ParquetDataset", "read_parquet"}
    for module, tree in modules().items():
        calls = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("pq", "pa.parquet", "ds", "ray.data")
        }
        assert module == "star_batch.storage.parquet" or not calls & readers, f"{module}: {calls & readers}"


HIDDEN = 'hidden = {"ray", "pydantic", "typer", "s3fs", "prometheus_client"}'
NOT_INSTALLED = f"""
import sys
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
{HIDDEN}
PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: None if name.split(".")[0] in hidden else find_spec(name, path, target)
)
"""


def in_new_process(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["storage", "commit", "inputs", "openai", "monitor", "report", "export"])
def test_rooms_below_the_pipeline_import_where_ray_is_not_installed(name: str) -> None:
    """And where the engine's libraries are not: somebody with another engine uses them alone."""
    own = [module for module in modules() if room(module) == name]
    hide = 'hidden = {"ray", "torch", "transformers", "typer"}'
    code = f"{NOT_INSTALLED.replace(HIDDEN, hide)}\nimport {', '.join(own)}"
    in_new_process(f"{code}\nassert not hidden & set(sys.modules)")


def test_the_engine_imports_where_ray_is_not_installed() -> None:
    rooms = [module for module in modules() if room(module) in ("engine", "models", "pruning", "images", "records")]
    modules_of_triton = {"star_batch.engine.paged_kernel"}
    code = f"import {', '.join(sorted(set(rooms) - modules_of_triton))}"
    in_new_process(f"{NOT_INSTALLED}\n{code}\nassert not hidden & set(sys.modules)")


def test_the_engine_does_not_import_ray_where_it_is_installed() -> None:
    in_new_process("import sys, star_batch.engine\nassert not {'ray', 'pydantic'} & set(sys.modules)")


def test_the_door_and_the_command_line_open_without_torch() -> None:
    code = "import sys, star_batch, star_batch.cli\nheavy = {'torch', 'ray', 'transformers'} & set(sys.modules)"
    in_new_process(f"{code}\nassert not heavy, heavy")


def test_the_door_shows_exactly_what_is_public() -> None:
    shown = {name for name in dir(star_batch) if not name.startswith("_")}
    public = {name for name in shown if not isinstance(getattr(star_batch, name), ModuleType)}
    assert public == set(star_batch.__all__)
    assert star_batch.__all__ == sorted(star_batch.__all__)


@pytest.mark.parametrize("module", modules())
def test_every_module_says_what_it_is(module: str) -> None:
    assert ast.get_docstring(modules()[module])


def long_functions(file: Path) -> list[str]:
    nodes = [node for node in ast.walk(parsed(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in nodes]
    return [f"{name} has {count} lines" for name, count in lines if count > MAX_FUNCTION_LINES]


@pytest.mark.parametrize("name", sources())
def test_functions_are_short(name: str) -> None:
    assert long_functions(ROOT / name) == []


@pytest.mark.parametrize("name", sources())
def test_modules_are_short(name: str) -> None:
    num_lines = len((ROOT / name).read_text(encoding="utf-8").splitlines())
    assert num_lines <= MAX_MODULE_LINES, f"{name} has {num_lines} lines"


def tracked_files() -> list[Path]:
    """What is committed or about to be."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def test_no_path_of_this_machine_is_committed() -> None:
    places = {ROOT, *([Path(sys.prefix)] if sys.prefix != sys.base_prefix else [])}
    for file in tracked_files():
        data = file.read_bytes()
        for place in places:
            assert str(place).encode() not in data, f"{file} names {place}"


def test_no_package_registry_is_committed() -> None:
    registry = re.compile(rb"(?:index-url|--index|index_url)[ =]+\S*?//([\w.-]+)|//([\w.-]+)/simple\b")
    for file in tracked_files():
        hosts = {host.decode() for pair in registry.findall(file.read_bytes()) for host in pair if host}
        assert hosts <= {"pypi.org", "download.pytorch.org"}, f"{file} names {hosts}"
