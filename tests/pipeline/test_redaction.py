import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_batch.pipeline.provenance import shown_config
from star_batch.pipeline.redaction import has_userinfo, redacted
from tests.pipeline.samples import job

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"s3://me:{SECRET}@bucket/x",
        f"cannot reach http://admin:{SECRET}@host:9000: refused",
        f"https://host/x.png?X-Amz-Signature={SECRET}&a=b",
        f"https://host/x.png?a=b&sig={SECRET}",
    ],
)
def test_secrets_in_urls_are_hidden(text: str) -> None:
    assert SECRET not in redacted(text)
    assert "***" in redacted(text)


def test_values_of_options_are_hidden_but_places_are_not() -> None:
    options = {"key": "abcdef", "client_kwargs": {"aws_session_token": SECRET, "endpoint_url": "http://host:1"}}
    assert redacted(f"{SECRET} abcdef at http://host:1", options) == "*** *** at http://host:1"


def test_secrets_of_the_environment_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert redacted(f"bad key {SECRET}!") == "bad key ***!"


def test_plain_text_stays_as_it_is() -> None:
    text = "s3://bucket/a@b/c?x=1: not found"
    assert redacted(text) == text
    assert not has_userinfo(text)


@given(st.text(alphabet="abc123", min_size=6), st.text(alphabet="xyz", max_size=9))
def test_no_option_survives_anywhere(secret: str, around: str) -> None:
    assert secret not in redacted(f"{around}{secret}{around}{secret}", {"secret": secret})


def test_what_a_runtime_env_sets_is_shown_by_name_alone() -> None:
    env = {"env_vars": {"KEY": "planted", "TWO": "2"}, "uv": ["wheel @ https://me:planted@host/wheel.whl", "numpy"]}
    config = job("in", "out", cluster={"runtime_env": env})
    shown = shown_config(config)["cluster"]["runtime_env"]
    assert shown["env_vars"] == {"KEY": "***", "TWO": "***"}
    assert shown["uv"][1] == "numpy"
    assert "planted" not in str(shown_config(config))
    assert config.cluster.environment == env
    assert shown_config(job("in", "out"))["cluster"]["runtime_env"] is None
