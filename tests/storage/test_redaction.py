import json
import re
import time
from urllib.parse import quote

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from star_batch.errors import ConfigError
from star_batch.pipeline.provenance import shown_config
from star_batch.storage.location import Location
from star_batch.storage.redaction import has_userinfo, redacted, without_credentials
from tests.pipeline.samples import job

SECRET = "hunter2hunter2"
SLASHED = "hun/ter2+hunter=2"


@pytest.mark.parametrize("secret", [SECRET, "hunter/2/hunter", "hunter2@hunter", "hunter'2\"", "hunter%2F2"])
@pytest.mark.parametrize(
    "text",
    [
        "s3://me:{}@bucket/x",
        "cannot reach http://admin:{}@host:9000: refused",
        "s3://a/b,s3://me:{}@bucket/x,s3://c/d",
        '["s3://a/b","s3://me:{}@bucket/x","s3://c/d@e"]',
        "s3://me:{0}@bucket/x s3://you:{0}@bucket/y",
        "{{'endpoint_url': 'http://me:{}@host:9000'}}",
    ],
)
def test_userinfo_is_hidden_and_the_place_is_not(text: str, secret: str) -> None:
    for hide in (redacted, without_credentials):
        hidden = hide(text.format(secret))
        assert not any(piece in hidden for piece in re.split(r"[/@'\"%]", secret) if len(piece) > 2)
        assert re.search(r"://\*\*\*@(bucket/x|host:9000)", hidden)
    with pytest.raises(ConfigError):
        Location.of(f"s3://me:{secret}@bucket/x")


def test_a_bucket_has_no_port() -> None:
    assert redacted("s3://me:12/hunter@bucket/x") == "s3://***@bucket/x"


@pytest.mark.parametrize("piece", ["a", "{ ", "\n", "x://", "://a:", "?key=", ", 'token'", "token-"])
def test_long_texts_take_no_longer_than_they_are_long(piece: str) -> None:
    started = time.monotonic()
    redacted(piece * 20_000)
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize(
    "text",
    [
        f"https://{SECRET}@host/x",
        f"https://host/x.png?X-Amz-Signature={SECRET}&a=b",
        f"https://host/x.png?X-Amz-Security-Token={SECRET}: refused",
        f"https://host/x.png?a=b&sig={SECRET}",
        f"https://host/x?AWSAccessKeyId={SECRET}&y",
        f"see {quote(f'https://me:{SECRET}@host/x', safe='')} there",
        f"https://a/?to={quote(f'https://host/x?sig={SECRET}', safe='')}",
    ],
)
def test_secrets_in_urls_are_hidden(text: str) -> None:
    assert SECRET not in without_credentials(text)
    assert SECRET not in redacted(text)
    assert "***" in redacted(text)


JOB = {"output": {"path": "s3://b/x", "storage_options": {"key": "AKIAKEYKEY", "secret": SLASHED, "anon": False}}}


@pytest.mark.parametrize(
    "text",
    [
        yaml.safe_dump(JOB),
        yaml.safe_dump(JOB, default_flow_style=True),
        json.dumps(JOB),
        json.dumps(JOB, indent=2),
        repr(JOB),
        f"bad request {json.dumps(JOB)} refused",
        json.dumps({"said": json.dumps(JOB)}),
        f"DefaultEndpointsProtocol=https;AccountKey={SLASHED};AKIA",
    ],
)
def test_a_text_that_quotes_a_whole_job_loses_its_secrets(text: str) -> None:
    hidden = redacted(text)
    assert SLASHED not in hidden
    assert "AKIAKEYKEY" not in hidden
    assert "path" not in text or "s3://b/x" in hidden


def test_values_of_options_are_hidden_but_places_are_not() -> None:
    options = {"key": "abcdef", "client_kwargs": {"aws_session_token": SECRET, "endpoint_url": "http://host:1"}}
    assert redacted(f"{SECRET} abcdef at http://host:1", options) == "*** *** at http://host:1"
    places = {
        "project": "my-project",
        "profile": "production",
        "token": {"type": "service_account", "private_key": SECRET},
    }
    text = f"my-project production service_account {SECRET}"
    assert redacted(text, places) == "my-project production service_account ***"


@given(st.text(alphabet="abc123/+=@ \"'\\é%", min_size=6), st.text(alphabet="xyz", max_size=9))
def test_no_secret_option_survives_anywhere(secret: str, around: str) -> None:
    for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1]):
        hidden = redacted(f"{around}{form}{around}{form}", {"nested": [{}], "client_kwargs": {"secret": [secret]}})
        assert form not in hidden


def test_what_the_clients_take_from_the_environment_is_hidden_in_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET * 2)
    assert redacted(f"bad key {SECRET * 2}!") == "bad key ***!"


def test_a_record_holds_paths_as_they_are_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """`MINIO_SECRET=photos` made `/data/***/2026` of a path in `_run.json`, which `verify` then looked for."""
    for name in ("MINIO_SECRET", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "photos")
    options = {"storage_options": {"secret": "photos"}}
    config = job("/data/photos/2026", "/data/photos/out", input=options, output=options)
    shown = shown_config(config)
    assert shown["input"]["path"] == "/data/photos/2026"
    assert "storage_options" not in shown["input"]
    assert Location.of("/data/photos/out", {"secret": "photos"}).shown == "/data/photos/out"
    assert redacted("/data/photos/2026: not found") == "/data/photos/2026: not found"


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a@b/c?x=1: not found",
        "http://host:9000/me@example.org/x.png",
        "cannot reach http://host:9000: ask me@example.org",
        "http://[::1]:9000/a@b",
        "s3://bucket/2026-01-01T10:00/a@b.png",
        "file:///data/a:b@c.png",
        "/data/key=1/token=5/part-0.parquet",
        "/data/monkey?key=1&sig=2",
        "max_new_tokens: 16",
        "the template has no image token: <image>",
        "decoding.stop: expected a list",
    ],
)
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text
    assert without_credentials(text) == text
    assert not has_userinfo(text)


@given(
    st.sampled_from(["/", "s3://bucket/", "gs://my-bucket/", "", "file:///", "http://host:9000/"]),
    st.lists(st.text(alphabet="abkeytokn=@:._-'%é ", min_size=1), min_size=1, max_size=5),
)
def test_innocent_paths_stay_verbatim(top: str, names: list[str]) -> None:
    path = top + "/".join(names)
    assert without_credentials(path) == path


def test_what_a_runtime_env_sets_is_shown_by_name_alone() -> None:
    env = {"env_vars": {"KEY": "planted", "TWO": "2"}, "uv": ["wheel @ https://me:planted@host/wheel.whl", "numpy"]}
    config = job("in", "out", cluster={"runtime_env": env})
    shown = shown_config(config)["cluster"]["runtime_env"]
    assert shown["env_vars"] == {"KEY": "***", "TWO": "***"}
    assert shown["uv"][1] == "numpy"
    assert "planted" not in str(shown_config(config))
    assert config.cluster.environment == env
    assert shown_config(job("in", "out"))["cluster"]["runtime_env"] is None


@pytest.mark.parametrize(
    "text",
    [
        "aws_secret_access_key = {}",
        "Authorization: Bearer {}",
        "https://host/x#access_token={}",
        "https://host/x?auth={}&a=1",
        "https://host/x?jwt={}",
        "https://host/x?pass={}",
        "<Error><SecretAccessKey>{}</SecretAccessKey></Error>",
    ],
)
def test_other_ways_to_write_a_secret(text: str) -> None:
    assert SECRET not in redacted(text.format(SECRET))
