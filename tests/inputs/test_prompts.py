import pytest

from star_batch.errors import ConfigError, PromptMissing
from star_batch.inputs.prompts import Template


@pytest.mark.parametrize(
    ("text", "row", "prompt"),
    [
        ("What is it?", {}, "What is it?"),
        ("What colour is the {thing}?", {"thing": "car"}, "What colour is the car?"),
        ("{a}{b} and {a}", {"a": 1, "b": True}, "1True and 1"),
        ("a {{set}} of {two words}", {"two words": "x"}, "a {set} of x"),
        ("{thing}", {"thing": "{thing.__class__}"}, "{thing.__class__}"),
    ],
)
def test_render(text: str, row: dict[str, object], prompt: str) -> None:
    assert Template.parse(text).render(row) == prompt


def test_columns_are_named_once_in_order() -> None:
    assert Template.parse("{b}{a}{b}").columns == ("b", "a")


@pytest.mark.parametrize("text", ["{}", "{0.real}", "{a.b}", "{a[0]}", "{a!r}", "{a:>10}", "{a", "a}", "{a:{b}}"])
def test_only_plain_names_stand_in_braces(text: str) -> None:
    with pytest.raises(ConfigError, match="prompt: "):
        Template.parse(text)


def test_a_null_is_a_missing_prompt() -> None:
    with pytest.raises(PromptMissing, match="'thing' is null"):
        Template.parse("the {thing}").render({"thing": None})


def test_a_nan_is_a_missing_prompt_too_and_the_word_is_none() -> None:
    """pandas writes NaN into columns of numbers where nothing stands."""
    template = Template.parse("is it {size} metres?")
    with pytest.raises(PromptMissing, match="'size' is NaN"):
        template.render({"size": float("nan")})
    assert template.render({"size": "nan"}) == "is it nan metres?"


def test_names_are_quoted_escaped() -> None:
    with pytest.raises(ConfigError) as caught:
        Template.parse("{a.\x1b]0;x\n}")
    assert str(caught.value).isprintable()
    with pytest.raises(PromptMissing) as missing:
        Template.parse("{a\x1b}").render({"a\x1b": None})
    assert str(missing.value).isprintable()
