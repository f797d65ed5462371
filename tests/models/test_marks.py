"""`<image>` among the user's words says where an image goes, in every family, and is never read as a word."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_batch.errors import PromptError, PromptInvalid, PromptMissing
from star_batch.models import Preprocessor, load_preprocessor
from star_batch.models.marks import MARK, between_images, message_content
from tests.families import FAMILIES
from tests.tiny import WORDS

W1, W2, ASSISTANT = WORDS.index("w1"), WORDS.index("w2"), WORDS.index("ASSISTANT:")


@pytest.fixture(scope="module", params=FAMILIES)
def words(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Preprocessor:
    return load_preprocessor(FAMILIES[request.param](tmp_path_factory.mktemp(request.param)))


def spoken(words: Preprocessor, text: str, num_images: int = 1) -> list[list[int]]:
    """The user's words w1 and w2 as they stand between the images."""
    return [[i for i in ids if i in (W1, W2)] for ids in words.prompt(text, num_images=num_images).texts]


@pytest.mark.parametrize(
    ("text", "num_images", "between"),
    [
        ("w1 w2", 1, [[], [W1, W2]]),
        ("w1 w2", 2, [[], [], [W1, W2]]),
        ("<image>\nw1 w2", 1, [[], [W1, W2]]),
        ("w1 w2\n<image>", 1, [[W1, W2], []]),
        ("w1 <image> w2", 1, [[W1], [W2]]),
        ("<image> w1 <image> w2", 2, [[], [W1], [W2]]),
        ("w1 <image> <image>", 2, [[W1], [], []]),
    ],
)
def test_images_stand_where_the_marks_are(words: Preprocessor, text: str, num_images: int, between: object) -> None:
    assert spoken(words, text, num_images) == between


def test_a_mark_at_the_beginning_says_what_is_so_without_it(words: Preprocessor) -> None:
    assert words.prompt("<image>\nw1 w2") == words.prompt("w1 w2")
    assert words.prompt("<image>\n<image>\nw1", num_images=2) == words.prompt("w1", num_images=2)


@pytest.mark.parametrize(("text", "num_images"), [("<image> <image> w1", 1), ("<image> w1", 2), ("<image>" * 9, 3)])
def test_another_number_is_an_error(words: Preprocessor, text: str, num_images: int) -> None:
    with pytest.raises(PromptInvalid, match=f"{text.count(MARK)} times, and the row's images are {num_images}"):
        words.prompt(text, num_images=num_images)


def test_marks_alone_ask_nothing(words: Preprocessor) -> None:
    with pytest.raises(PromptMissing):
        words.prompt("<image>\n")


@pytest.mark.parametrize("token", ["</s>", "<s>", "<pad>", "<|image_pad|>", "<|vision_start|>", "<|im_end|>"])
def test_a_special_token_among_the_words_is_an_error_or_a_word(words: Preprocessor, token: str) -> None:
    """A family's own ones are refused; to another family they are words, here unknown ones."""
    is_special = token in words.tokenizer.get_vocab()
    unknown = words.tokenizer.unk_token_id
    if is_special:
        with pytest.raises(PromptInvalid):
            words.prompt(f"w1 {token} w2")
    else:
        assert words.prompt(f"w1 {token} w2").texts[1][-4:] == (W1, unknown, W2, ASSISTANT)


def test_a_raw_prompt_is_the_whole_text(words: Preprocessor) -> None:
    assert words.prompt(f"{words.image_token} w1 </s>", raw=True).texts == ((), (W1, 2))


def test_a_template_that_writes_images_first_still_has_them_where_the_marks_are(tmp_path: Path) -> None:
    """As LLaVA-1.5's does; among the words stands the bare token, as it did in training."""
    first = "{% for c in messages[0]['content'] if c['type'] == 'image' %}<image> {% endfor %}"
    then = "{% for c in messages[0]['content'] if c['type'] == 'text' %}{{ c['text'] }} {% endfor %}ASSISTANT:"
    folder = FAMILIES["llava"](tmp_path)
    (tmp_path / "chat_template.jinja").write_text(f"USER: {first}{then}")
    words = load_preprocessor(folder)
    assert spoken(words, "w1 w2") == spoken(words, "<image>\nw1 w2") == [[], [W1, W2]]
    assert spoken(words, "w1 <image> w2") == [[W1], [W2]]
    assert spoken(words, "w1\n<image>\nw2 <image>", 2) == [[W1], [W2], []]


def test_a_family_whose_images_cannot_stand_alone_says_so(tmp_path: Path) -> None:
    """The bare token would lack what the template writes around it."""
    around = "<|vision_start|> <|image_pad|> <|vision_end|> "
    first = f"{{% for c in messages[0]['content'] if c['type'] == 'image' %}}{around}{{% endfor %}}"
    then = "{% for c in messages[0]['content'] if c['type'] == 'text' %}{{ c['text'] }} {% endfor %}ASSISTANT:"
    folder = FAMILIES["qwen2_vl"](tmp_path)
    (tmp_path / "chat_template.jinja").write_text(f"USER: {first}{then}")
    words = load_preprocessor(folder)
    assert spoken(words, "<image> w1 w2") == [[], [W1, W2]]
    with pytest.raises(PromptInvalid, match="images first"):
        words.prompt("w1 <image> w2")


@given(st.lists(st.sampled_from([MARK, "\n", "a", " ", "</s>"])), st.integers(1, 3))
def test_no_mark_is_ever_a_word(pieces: list[str], num_images: int) -> None:
    try:
        texts = between_images("".join(pieces), num_images)
    except PromptError:
        return
    assert len(texts) == num_images + 1
    content = message_content(texts)
    assert sum(part["type"] == "image" for part in content) == num_images
    assert MARK not in "".join(part.get("text", "") for part in content)
