"""The token of a Ray of one's own: it is new, and it leaves nothing behind."""

import os
from pathlib import Path

import pytest

from star_batch.pipeline.tokens import MODE, TOKEN, own_token


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def seen() -> tuple[str | None, str | None]:
    return os.environ.get(MODE), os.environ.get(TOKEN)


@pytest.mark.parametrize(("mode", "token"), [(None, None), ("token", None), ("token", "of the user"), (None, "left")])
def test_a_token_of_its_own_for_each(
    mode: str | None, token: str | None, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    for name, value in ((MODE, mode), (TOKEN, token)):
        monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)
    tokens = set()
    for _ in range(2):
        with own_token():
            assert os.environ[MODE] == "token"
            tokens.add(os.environ[TOKEN])
        assert seen() == (mode, token)
    assert len(tokens) == 2
    assert token not in tokens
    assert all(len(made) == 64 for made in tokens)
    assert list(home.iterdir()) == []


def test_ray_itself_sees_the_token_inside_and_not_after(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import _raylet

    for name in (MODE, TOKEN):
        monkeypatch.delenv(name, raising=False)
    loader = _raylet.AuthenticationTokenLoader.instance()
    with own_token():
        assert loader.has_token()
        assert loader.get_raw_token() == os.environ[TOKEN]
    assert not loader.has_token(ignore_auth_mode=True)


def test_who_wants_no_authentication_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODE, "disabled")
    monkeypatch.delenv(TOKEN, raising=False)
    with own_token():
        assert seen() == ("disabled", None)
