"""A system prompt goes where the checkpoint's chat template has it, or is refused before anything starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from star_batch.config import parse_config
from star_batch.errors import ConfigError, PromptInvalid
from star_batch.models import Preprocessor, load_preprocessor
from star_batch.pipeline import backend
from tests.families import FAMILIES
from tests.pipeline.samples import job

_IMAGE = "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}"
_USER = f"USER: {{% for c in m['content'] %}}{_IMAGE}{{% endfor %}} ASSISTANT:"


def by_role(system: str) -> str:
    """A template that writes a system turn like this, `m` being the message."""
    turn = f"{{% if m['role'] == 'system' %}}{system}{{% else %}}{_USER}{{% endif %}}"
    return f"{{% for m in messages %}}{turn}{{% endfor %}}"


IN_PARTS = by_role("<<SYS>> {{ m['content'][0]['text'] }} <</SYS>> ")
AS_TEXT = by_role("{% if m['content'] is string %}System: {{ m['content'] }} {% endif %}")
TEMPLATES_WITHOUT = {
    "leaves it out": by_role(""),
    "refuses it": by_role("{{ raise_exception('only user and assistant') }}"),
    "writes it behind": by_role("{% set ns = 1 %}") + "{{ messages[0]['content'] if messages[0]['role'] == 'system' }}",
    "never ends with it": by_role("{% for i in range(10**9) %}{% for j in range(10**9) %}{% endfor %}{% endfor %}"),
}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str | None], Preprocessor]:
    folder = FAMILIES["llava"](tmp_path)

    def load(template: str | None) -> Preprocessor:
        file = tmp_path / "chat_template.jinja"
        file.write_text(template) if template is not None else file.unlink()
        return load_preprocessor(folder)

    return load


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        (IN_PARTS, "<<SYS>> w1 w2 <</SYS>> USER: <image>w3 ASSISTANT:"),
        (AS_TEXT, "System: w1 w2 USER: <image>w3 ASSISTANT:"),
        (None, "w1 w2 USER: <image>\nw3 ASSISTANT:"),
    ],
)
def test_it_goes_where_the_template_has_it(saved: Any, template: str | None, rendered: str) -> None:
    words = saved(template)
    assert words.render("w3", system="w1 w2") == rendered
    assert "w1" not in words.render("w3")
    with_it, without = words.prompt("w3", system="w1 w2"), words.prompt("w3")
    assert with_it.texts[1] == without.texts[1]
    assert len(with_it.texts[0]) > len(without.texts[0])


@pytest.mark.parametrize("why", TEMPLATES_WITHOUT)
def test_a_template_that_has_no_place_for_it_is_said(saved: Any, why: str) -> None:
    words = saved(TEMPLATES_WITHOUT[why])
    assert words.prompt("w3").num_images == 1
    with pytest.raises(PromptInvalid, match="has no place for a system prompt: write it into the prompt"):
        words.prompt("w3", system="w1")


def test_special_tokens_in_it_are_no_words(saved: Any) -> None:
    words = saved(IN_PARTS)
    with pytest.raises(PromptInvalid, match="the prompt holds </s>, to the model no words"):
        words.prompt("w3", system="w1 </s>")


def test_a_raw_prompt_holds_it_already(saved: Any) -> None:
    with pytest.raises(PromptInvalid, match="write the system prompt into it"):
        saved(IN_PARTS).prompt("<image> w1", raw=True, system="w2")


def test_a_job_is_refused_before_ray_starts(tmp_path: Path, saved: Any) -> None:
    saved(by_role(""))
    config = job(tmp_path / "in", tmp_path / "out", model={"name": str(tmp_path)}, input={"system": "w1"})
    backend.load_preprocessor.cache_clear()
    with pytest.raises(ConfigError, match=r"^input\.system: the checkpoint's chat template has no place"):
        backend.identify(config)
    saved(IN_PARTS)
    backend.load_preprocessor.cache_clear()
    assert backend.identify(config)


@pytest.mark.parametrize(
    ("input", "message"),
    [
        ({"prompt": "q", "system": " "}, r"input\.system \(--system\): is empty"),
        ({"prompt": "q", "system": "s", "raw_prompt": True}, "raw_prompt is the whole text"),
        ({"kind": "openai", "system": "s"}, "system: records of input.kind openai say for themselves"),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_read(input: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"input": {"path": "in"} | input, "output": {"path": "out"}, "model": {"name": "demo"}})
