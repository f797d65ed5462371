"""A HOME that cannot be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from star_batch.home import caches_elsewhere

ROOT = Path(__file__).parent.parent
NOWHERE = "/proc/no-home"  # not even root can write there


def test_a_home_that_can_be_written_stays_what_it_is(tmp_path: Path) -> None:
    assert caches_elsewhere({"HOME": str(tmp_path)}) == {}
    assert caches_elsewhere({"HOME": str(tmp_path / "to" / "be" / "made")}) == {}
    assert list(tmp_path.iterdir()) == []


def test_caches_lie_elsewhere_in_a_folder_that_nobody_else_enters() -> None:
    given = caches_elsewhere({"HOME": NOWHERE, "MPLCONFIGDIR": "/chosen"})
    assert set(given) == {"HF_HOME", "TRITON_CACHE_DIR"}
    (place,) = {Path(value).parent for value in given.values()}
    assert place.stat().st_mode & 0o777 == 0o700
    place.rmdir()
    # What a parent has set holds for its children.
    assert caches_elsewhere({"HOME": NOWHERE, "MPLCONFIGDIR": "/chosen"} | given) == {}


def test_weights_that_can_only_be_read_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    without = {"MPLCONFIGDIR": "/a", "TRITON_CACHE_DIR": "/b"}
    assert caches_elsewhere({"HOME": str(tmp_path)} | without) == {}


def other_user(uid: int) -> list[str]:
    """Runs a command as a user whom nobody has heard of, who may read what is here and write nothing."""
    reads = [
        "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=+dac_read_search",
        "--bounding-set=-all,+dac_read_search",
    ]
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *reads]


@pytest.mark.faults
@pytest.mark.timeout(400)
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root may become another user")
@pytest.mark.parametrize("uid", [1000, 54321])
def test_a_job_as_the_user_of_the_manifests(uid: int) -> None:
    from star_batch.demo.dataset import write_parquet

    folder = Path("/tmp") / f"sb-home-{os.getpid()}-{uid}"
    folder.mkdir(mode=0o755)
    try:
        write_parquet(folder / "rows", 4, seed=7, num_bad=0)
        (folder / "mine").mkdir()
        os.chown(folder / "mine", uid, uid)
        hidden = ("MPLCONFIGDIR", "HF_HOME", "TRITON_CACHE_DIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {"HOME": "/", "TMPDIR": str(folder / "mine"), "RAY_TMPDIR": str(folder / "mine")}
        command = [sys.executable, "-c", RUN]
        job = ["run", "--model", "demo", "--prompt", "what?", "--input", str(folder / "rows")]
        done = subprocess.run(
            [*other_user(uid), *command, *job, "--output", str(folder / "mine" / "out")],
            capture_output=True,
            text=True,
            timeout=380,
            check=False,
            cwd=folder,
            env=environment,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "HOME (/) cannot be written" in done.stderr
        assert "Traceback" not in done.stderr
        assert (folder / "mine" / "out" / "_SUCCESS").exists()
        assert (folder / "mine" / "out" / "report.html").exists()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


RUN = "from star_batch.cli import main; main()"
