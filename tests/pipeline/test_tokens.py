"""The token of a Ray of one's own: it is new, and it leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from star_batch.pipeline import tokens
from star_batch.pipeline.tokens import MODE, TOKEN, own_token

NAMES = (MODE, TOKEN, "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process may have a Ray, which is not to notice."""
    monkeypatch.setattr(tokens, "_read_anew", lambda: None)


def seen() -> tuple[str | None, str | None]:
    return os.environ.get(MODE), os.environ.get(TOKEN)


@pytest.mark.parametrize(("mode", "token"), [(None, None), ("token", None), ("token", "of the user"), (None, "left")])
def test_a_token_of_its_own_for_each(mode: str | None, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ((MODE, mode), (TOKEN, token)):
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
    made = set()
    for _ in range(2):
        with own_token():
            assert os.environ[MODE] == "token"
            made.add(os.environ[TOKEN])
        assert seen() == (mode, token)
    assert len(made) == 2
    assert token not in made
    assert {len(each) for each in made} == {64}


SEEN = """
import os
from ray import _raylet
from star_batch.pipeline.tokens import own_token

loader = _raylet.AuthenticationTokenLoader.instance()
for _ in range(2):
    assert not loader.has_token(ignore_auth_mode=True)
    with own_token():
        assert loader.has_token()
        assert loader.get_raw_token() == os.environ["RAY_AUTH_TOKEN"]
"""


def test_ray_itself_sees_the_token_inside_and_not_after(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    subprocess.run([sys.executable, "-c", SEEN], check=True, env=environment | {"HOME": str(tmp_path)})
    assert not (tmp_path / ".ray").exists()


def test_who_wants_no_authentication_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODE, "disabled")
    monkeypatch.delenv(TOKEN, raising=False)
    with own_token():
        assert seen() == ("disabled", None)
