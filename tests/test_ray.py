"""The door for Ray Data pipelines: light, complete, and in nobody's way."""

import subprocess
import sys

import star_batch.ray as sb


def test_the_door_opens_without_anything_heavy() -> None:
    code = "import sys, star_batch.ray\nheavy = {'torch', 'ray', 'transformers', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{code}\nassert not heavy, heavy"], check=True, timeout=250)


def test_it_is_not_taken_for_ray_itself() -> None:
    code = "import star_batch.ray as sb, ray\nassert ray is not sb and hasattr(ray, 'init')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=250)


def test_everything_that_it_names_is_there() -> None:
    assert dir(sb) == sorted(sb.__all__)
    assert all(isinstance(getattr(sb, name), type) for name in sb.__all__)
