"""A checkpoint's words and image geometry, without its weights: images to pixels, prompts to token ids, ids to text.

Knows no model and runs on CPU only. Normalising is left to the device: pixels stay uint8 until then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import transformers
from PIL import Image
from transformers import AutoProcessor

from star_batch.errors import ImageTooLarge, ModelError, PromptInvalid, PromptMissing
from star_batch.models.checkpoint import Checkpoint, first_line
from star_batch.records import Pixels

_MAX_ASPECT = 100

DEFAULT_TEMPLATE = "USER: {image}\n{prompt} ASSISTANT:"
"""What a checkpoint without a chat template gets; the words of LLaVA-1.5."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids around the one place where the visual tokens go."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Text tokens, the image's not counted."""
        return len(self.before) + len(self.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """How uint8 pixels become the encoder's input: `(pixels * scale - mean) / std`, per channel."""

    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Preprocessor:
    """The checkpoint's own tokenizer, chat template and image processor."""

    def __init__(self, processor: Any, image_processor: Any) -> None:
        self._processor = processor
        self._images = image_processor
        self.tokenizer = processor.tokenizer
        self.image_token: str = processor.image_token

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> "Preprocessor":
        """Reads the processor's files; no weights.

        Raises:
            ModelError: the checkpoint has no processor, it cannot be read, or its template takes no image.
        """
        try:
            processor = AutoProcessor.from_pretrained(checkpoint.source, **checkpoint.arguments)
            images = _pil_backend(processor.image_processor).from_pretrained(checkpoint.source, **checkpoint.arguments)
        except (OSError, ValueError) as error:
            message = f"{checkpoint.name}: its processor cannot be read: {first_line(error)}"
            raise ModelError(message) from error
        preprocessor = cls(processor, images)
        if preprocessor._render("x").count(preprocessor.image_token) != 1:
            raise ModelError(f"{checkpoint.name}: its chat template has no place for one image")
        return preprocessor

    @property
    def normalisation(self) -> Normalisation:
        images = self._images
        mean = images.image_mean if images.do_normalize else (0.0, 0.0, 0.0)
        std = images.image_std if images.do_normalize else (1.0, 1.0, 1.0)
        return Normalisation(scale=images.rescale_factor if images.do_rescale else 1.0, mean=mean, std=std)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """`(height, width, 3)` of an image's pixels."""
        height, width, channels = self.pixels(Image.new("RGB", (64, 64))).shape
        return height, width, channels

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokenizer's end of sequence; a model's generation settings may know more."""
        eos = self.tokenizer.eos_token_id
        return frozenset() if eos is None else frozenset((eos,))

    def pixels(self, image: Image.Image) -> Pixels:
        """An upright RGB image, resized and cropped as the checkpoint wants it, `[height, width, 3]` uint8.

        Raises:
            ImageTooLarge: so long and thin that resizing its short side would make it huge.
        """
        if max(image.size) > _MAX_ASPECT * min(image.size):
            raise ImageTooLarge(f"{image.width} x {image.height} pixels: a side is over {_MAX_ASPECT} times the other")
        channels_first = self._images(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
        return np.ascontiguousarray(np.moveaxis(channels_first, 0, -1))

    def prompt(self, text: str | None, *, raw: bool = False) -> Prompt:
        """The token ids of the user's words, rendered with the chat template; `raw` takes them as the whole text.

        Raises:
            PromptMissing: null or blank.
            PromptInvalid: the user's words hold the image token, or a raw prompt does not hold it once.
        """
        if text is None or not text.strip():
            raise PromptMissing("the prompt is empty; give the words to ask")
        rendered = text if raw else self._render(text)
        if rendered.count(self.image_token) != 1:
            wanted = "a raw prompt holds it exactly once" if raw else "leave it out, it is put in for you"
            raise PromptInvalid(f"the prompt holds the image token {self.image_token}: {wanted}")
        return self._tokenize(rendered)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def answer_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of an answer as it would follow the prompt: no special tokens."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render(self, prompt: str) -> str:
        if self._processor.chat_template is None:
            return DEFAULT_TEMPLATE.format(image=self.image_token, prompt=prompt)
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        rendered: str = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return rendered

    def _tokenize(self, text: str) -> Prompt:
        bos = self.tokenizer.bos_token
        starts_itself = bos is not None and text.startswith(bos)
        ids: list[int] = self.tokenizer(text, add_special_tokens=not starts_itself)["input_ids"]
        place = ids.index(self.tokenizer.convert_tokens_to_ids(self.image_token))
        return Prompt(tuple(ids[:place]), tuple(ids[place + 1 :]))


def _pil_backend(image_processor: Any) -> Any:
    """The PIL class of an image processor: pixels must not depend on whether torchvision is installed."""
    family = type(image_processor).__name__.removesuffix("Pil").removesuffix("Fast")
    return getattr(transformers, f"{family}Pil", type(image_processor))
