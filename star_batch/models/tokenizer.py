"""Prompts to token ids and ids to text, by the checkpoint's own tokenizer and chat template.

Knows no pixel, no file and no model.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from star_batch.errors import PromptInvalid, PromptMissing, RecordError
from star_batch.models.checkpoint import first_line
from star_batch.models.marks import MARK, between_images, has_images_first, message_content
from star_batch.models.rendering import LONGEST
from star_batch.models.template import check_ends
from star_batch.wording import printable

_WORDS = "What is there to see?"
_SYSTEM_WORDS = "Be brief and exact."

DEFAULT_TEMPLATE = "USER: {images}{prompt} ASSISTANT:"
"""What a checkpoint without a chat template gets; the words of LLaVA-1.5, with a line for each image."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids between the places where images go: one text more than there are images."""

    texts: tuple[tuple[int, ...], ...]

    @property
    def num_images(self) -> int:
        return len(self.texts) - 1

    @property
    def num_tokens(self) -> int:
        """Text tokens, the images' not counted."""
        return sum(map(len, self.texts))


def _in_parts(text: str) -> object:
    return [{"type": "text", "text": text}]


class PromptTokenizer:
    """The user's words rendered and tokenized; `tokenizer` is the library's. Without a template: LLaVA-1.5's words."""

    def __init__(self, tokenizer: Any, image_token: str, template: str | None) -> None:
        self.tokenizer = tokenizer
        self.image_token = image_token
        self._template = template
        self._own_special: dict[tuple[int, bool], Counter[int]] = {}

    @property
    def _special_tokens(self) -> str:
        return json.dumps(self.tokenizer.special_tokens_map, default=str)

    @cached_property
    def image_id(self) -> int:
        """The token that stands in a prompt for an image."""
        return int(self.tokenizer.convert_tokens_to_ids(self.image_token))

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokenizer's end of sequence; a model's generation settings may know more."""
        eos = self.tokenizer.eos_token_id
        return frozenset() if eos is None else frozenset((eos,))

    def prompt(self, text: str | None, *, num_images: int = 1, raw: bool = False, system: str | None = None) -> Prompt:
        """The token ids of the user's words, rendered with the chat template; `raw` takes them as the whole text.

        Raises:
            PromptMissing: null or blank.
            PromptInvalid: marks for other than `num_images` images, special tokens among the words, a raw prompt that
                does not hold the image token once per image, or a `system` prompt that has no place.
        """
        if text is None or not text.strip():
            raise PromptMissing("the prompt is empty; give the words to ask")
        if raw and system is not None:
            raise PromptInvalid("a raw prompt is the whole text: write the system prompt into it")
        ids = self._checked_ids(text, num_images, system, raw=raw)
        if ids.count(self.image_id) != num_images:
            raise PromptInvalid(self._why_not(text, num_images, raw=raw))
        if not raw:
            self._check_special(ids, num_images, has_system=system is not None)
        return self._between_images(ids)

    def _checked_ids(self, text: str, num_images: int, system: str | None, *, raw: bool) -> list[int]:
        try:
            rendered = text if raw else self.render(text, num_images, system)
            is_huge = len(rendered) > len(text) + len(system or "") + LONGEST
            ids = [] if is_huge else self._ids(rendered)
        except RecordError:
            raise
        except Exception as error:  # the template's code and the tokenizer's, on words that nobody has tried
            raise PromptInvalid(
                f"the checkpoint's template or tokenizer cannot take it: {first_line(error)}"
            ) from error
        if is_huge:
            raise PromptInvalid(f"the checkpoint's chat template makes {len(rendered):,} characters of it")
        return ids

    def render(self, prompt: str, num_images: int = 1, system: str | None = None) -> str:
        """The whole text of the user's words, by the chat template; marks among them say where the images go.

        Raises:
            PromptInvalid: there are marks, but not as many as images; or the template has no place for `system`.
            PromptMissing: there is nothing but marks.
        """
        before = self._system_content(system) if system is not None else None
        texts = between_images(prompt, num_images)
        if has_images_first(texts) or self._keeps_order:
            return self._rendered(message_content(texts), before)
        # As the LLaVA family was trained: among the words stands the bare token.
        return self._rendered([{"type": "text", "text": self.image_token.join(texts)}], before)

    def _system_content(self, system: str) -> object:
        if self._system_turn is None:
            raise PromptInvalid(
                "the checkpoint's chat template has no place for a system prompt: write it into the prompt"
            )
        return self._system_turn(system)

    def _rendered(self, content: Sequence[dict[str, Any]], system: object = None) -> str:
        if self._template is None:
            words = [part.get("text", "") for part in content]
            asked = DEFAULT_TEMPLATE.format(images=f"{self.image_token}\n" * words.count(""), prompt="".join(words))
            return asked if system is None else f"{system} {asked}"
        return self._by_template(self._template, content, system)

    def _by_template(self, template: str, content: Sequence[dict[str, Any]], system: object = None) -> str:
        before = [] if system is None else [{"role": "system", "content": system}]
        rendered: str = self.tokenizer.apply_chat_template(
            [*before, {"role": "user", "content": content}],
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
        )
        return rendered

    @cached_property
    def _system_turn(self) -> Callable[[str], object] | None:
        """How the template takes a system prompt: in parts, or as plain text; None if it has no place for one."""
        if self._template is None:
            return str
        return next((turn for turn in (_in_parts, str) if self._takes(self._template, turn)), None)

    def _takes(self, template: str, turn: Callable[[str], object]) -> bool:
        try:
            check_ends(template, self._special_tokens, json.dumps(turn(_SYSTEM_WORDS)))
            rendered = self._by_template(template, message_content(["", _WORDS]), turn(_SYSTEM_WORDS))
        except Exception:  # the template's code may refuse the role, or content of this form
            return False
        return rendered.count(_SYSTEM_WORDS) == 1 and _WORDS in rendered.partition(_SYSTEM_WORDS)[2]

    @cached_property
    def _keeps_order(self) -> bool:
        """Whether the template writes an image where it stands among the words; some write all images first."""
        if self._template is None:
            return False
        first, *others = self._rendered(message_content(["words-1", "words-2"])).split(self.image_token)
        return "words-1" in first and "words-2" in "".join(others)

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        """Those that no word may become; words that are not known are none of them."""
        added = self.tokenizer.added_tokens_decoder
        special = {token_id for token_id, token in added.items() if token.special}
        return frozenset((special | {*self.tokenizer.all_special_ids, self.image_id}) - {self.tokenizer.unk_token_id})

    def _check_special(self, ids: Sequence[int], num_images: int, *, has_system: bool) -> None:
        """The user's words may neither bring a special token, as `</s>` in them does, nor displace one."""
        found, own = self._special(ids), self._special_of_template(num_images, has_system=has_system)
        if found - own:
            names = ", ".join(map(str, self.tokenizer.convert_ids_to_tokens(list(found - own))))
            raise PromptInvalid(f"the prompt holds {names}, to the model no words: leave it out, or set raw_prompt")
        if own - found:
            raise PromptInvalid("the checkpoint's chat template has images first: leave out the marks for them")

    def _special(self, ids: Sequence[int]) -> Counter[int]:
        return Counter(token_id for token_id in ids if token_id in self._special_ids)

    def _special_of_template(self, num_images: int, *, has_system: bool) -> Counter[int]:
        key = num_images, has_system
        if key not in self._own_special:
            self._own_special[key] = self._special(self._ids(self.render("x", num_images, "x" if has_system else None)))
        return self._own_special[key]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def stop_id(self, text: str) -> int | None:
        """The id of a special token, which the text of an answer never shows; None if these are words."""
        ids = self.answer_ids(text)
        return ids[0] if len(ids) == 1 and not self.decode(ids) and self.tokenizer.decode(list(ids)) == text else None

    def answer_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of an answer as it would follow the prompt: no special tokens."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _why_not(self, text: str, num_images: int, *, raw: bool) -> str:
        """What is wrong with a prompt that does not come out with one image token for each image."""
        if not raw and self.image_token not in text.replace(MARK, ""):
            return f"the checkpoint's chat template has no place for {num_images} images"
        wanted = f"a raw prompt holds it once per image ({num_images})" if raw else "leave it out, it is put in for you"
        return f"the prompt holds the image token {self.image_token}: {wanted}"

    def check_image_token(self, image_id: int) -> None:
        """By ids: a token that the tokenizer does not know looks like any other text.

        Raises:
            ValueError: the model and the tokenizer do not mean the same token.
        """
        found = self.tokenizer.convert_tokens_to_ids(self.image_token) if self.image_token is not None else None
        alone = self.answer_ids(self.image_token) if found is not None else ()
        if found != image_id or alone != (image_id,):
            raise ValueError(
                f"the image token is {image_id} to the model, and the tokenizer makes {list(alone)[:8]} of "
                f"{printable(repr(self.image_token), 80)}; these files do not belong together"
            )

    def why_unusable(self, template: str) -> str | None:
        """Why a chat template cannot say where one image goes; None if it can."""
        check_ends(template, self._special_tokens)
        try:
            rendered = self._by_template(template, message_content(["", _WORDS]))
            num_images = self._ids(rendered).count(self.image_id)
        except Exception as error:
            return f"its chat template does not take an image: {first_line(error)}"
        if num_images != 1:
            return "its chat template has no place for one image"
        return None if _WORDS in rendered else "its chat template leaves out the prompt"

    def _ids(self, text: str) -> list[int]:
        bos = self.tokenizer.bos_token
        starts_itself = bos is not None and text.startswith(bos)
        ids: list[int] = self.tokenizer(text, add_special_tokens=not starts_itself)["input_ids"]
        return ids

    def _between_images(self, ids: Sequence[int]) -> Prompt:
        places = [place for place, token in enumerate(ids) if token == self.image_id]
        starts, ends = [0, *(place + 1 for place in places)], [*places, len(ids)]
        return Prompt(tuple(tuple(ids[start:end]) for start, end in zip(starts, ends, strict=True)))
