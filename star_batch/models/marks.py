"""Where the images go among a user's words: `<image>` marks, as the data of the LLaVA family has them.

The same for every family, whatever its own image token is. Knows no template and no tokenizer.
"""

from typing import Any

from star_batch.errors import PromptInvalid, PromptMissing

MARK = "<image>"


def between_images(text: str, num_images: int) -> list[str]:
    """The words before, between and after the images: one text more than images, empty ones where none stand.

    Without any mark images come first.

    Raises:
        PromptInvalid: there are marks, but not as many as images.
        PromptMissing: there is nothing but marks.
    """
    texts = text.split(MARK)
    if len(texts) == 1:
        return [*[""] * num_images, text]
    if len(texts) - 1 != num_images:
        counted = f"{MARK} stands in the prompt {len(texts) - 1} times, and the row's images are {num_images}"
        raise PromptInvalid(f"{counted}: give a mark for each image, or none and the images come first")
    if not any(map(str.strip, texts)):
        raise PromptMissing(f"the prompt holds nothing but {MARK} marks; give the words to ask")
    return texts


def has_images_first(texts: list[str]) -> bool:
    return not any(map(str.strip, texts[:-1]))


def message_content(texts: list[str]) -> list[dict[str, Any]]:
    """What a chat template takes. A line break beside a mark sets the image apart, which the template does itself."""
    content: list[dict[str, Any]] = []
    for number, text in enumerate(texts):
        words = text.lstrip("\n") if number else text
        words = words.rstrip("\n") if number < len(texts) - 1 else words
        content += [{"type": "image"}] if number else []
        content += [{"type": "text", "text": words}] if words.strip() else []
    return content
