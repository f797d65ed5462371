"""A checkpoint's words and image geometry, without its weights: images to pictures, prompts to token ids, ids to text.

Reads the files of its tokenizer, chat template and image processor. Knows no model and runs on CPU only.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import transformers
from PIL import Image
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    ImageProcessingMixin,
    ProcessorMixin,
    Qwen2VLImageProcessorPil,
)

from star_batch.errors import ModelError
from star_batch.models.checkpoint import Checkpoint, opening
from star_batch.models.image_processor import ImageProcessor, Normalisation
from star_batch.models.template import choose_template
from star_batch.models.tokenizer import Prompt, PromptTokenizer
from star_batch.records import Picture

logger = logging.getLogger(__name__)


class Preprocessor:
    """The checkpoint's own tokenizer, chat template and image processor."""

    def __init__(self, *, tokenizer: Any, images: Any, image_token: str, template: str | None) -> None:
        self._words = PromptTokenizer(tokenizer, image_token, template)
        self._pixels = ImageProcessor(images)

    @classmethod
    def of_processor(cls, processor: Any, images: Any) -> "Preprocessor":
        """From the library's processor, and an image processor to take instead of its own."""
        return cls(
            tokenizer=processor.tokenizer,
            images=images,
            image_token=processor.image_token,
            template=processor.chat_template,
        )

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> "Preprocessor":
        """Reads the processor's files; no weights.

        Raises:
            ModelError: the checkpoint has no processor, it cannot be read, or its template takes no image.
        """
        with opening(checkpoint, "its processor cannot be read"):
            config = checkpoint.config()
            tokenizer, images, image_token, brought = _read(checkpoint, config)
            words, pixels = PromptTokenizer(tokenizer, image_token, None), ImageProcessor(images)
            words.check_image_token(config.image_token_id)
            # Used once here, where what fails is the checkpoint's fault and no row's.
            pixels.typical, pixels.normalisation  # noqa: B018
        with opening(checkpoint, "its chat template cannot be used"):
            template, reason = choose_template(brought, words.why_unusable)
        if template is None:
            _fall_back(checkpoint, config.model_type, reason)
        return cls(tokenizer=tokenizer, images=images, image_token=image_token, template=template)

    def picture(self, image: Image.Image, size: tuple[int, int] | None = None) -> Picture:
        """An upright RGB image as the checkpoint wants it; see `ImageProcessor.picture`."""
        return self._pixels.picture(image, size)

    @property
    def can_shrink(self) -> bool:
        """Whether large images may be decoded smaller; see `shrink`."""
        return self._pixels.can_shrink

    def shrink(self, size: tuple[int, int]) -> int:
        """By how much both sides of an image may be divided while it is decoded; see `ImageProcessor.shrink`."""
        return self._pixels.shrink(size)

    @property
    def typical(self) -> Picture:
        """A photograph of common size as this checkpoint sees it, for sizing what depends on pictures."""
        return self._pixels.typical

    @property
    def normalisation(self) -> Normalisation:
        return self._pixels.normalisation

    def prompt(self, text: str | None, *, num_images: int = 1, raw: bool = False, system: str | None = None) -> Prompt:
        """The token ids of the user's words; see `PromptTokenizer.prompt`."""
        return self._words.prompt(text, num_images=num_images, raw=raw, system=system)

    def render(self, prompt: str, num_images: int = 1, system: str | None = None) -> str:
        """The whole text of the user's words, by the chat template; see `PromptTokenizer.render`."""
        return self._words.render(prompt, num_images, system)

    @property
    def tokenizer(self) -> Any:
        """The library's."""
        return self._words.tokenizer

    @property
    def image_token(self) -> str:
        return self._words.image_token

    @property
    def image_id(self) -> int:
        """The token that stands in a prompt for an image."""
        return self._words.image_id

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokenizer's end of sequence; a model's generation settings may know more."""
        return self._words.stop_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens."""
        return self._words.decode(token_ids)

    def stop_id(self, text: str) -> int | None:
        """The id of a special token, which the text of an answer never shows; None if these are words."""
        return self._words.stop_id(text)

    def answer_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of an answer as it would follow the prompt: no special tokens."""
        return self._words.answer_ids(text)


def _read(checkpoint: Checkpoint, config: Any) -> tuple[Any, Any, str, list[Any]]:
    """Tokenizer, image processor, image token, and the chat templates that it brings, in the library's order."""
    source, arguments = checkpoint.source, checkpoint.arguments
    if not hasattr(config, "video_token_id"):
        processor = AutoProcessor.from_pretrained(source, **arguments)
        kind = type(processor.image_processor)
        images = _pil_backend(kind.__name__, kind).from_pretrained(source, **arguments)
        brought = [processor.chat_template, processor.tokenizer.chat_template]
        return processor.tokenizer, images, processor.image_token, brought
    # A processor that also takes videos needs torchvision to be made; its parts for images do not.
    tokenizer = AutoTokenizer.from_pretrained(source, **arguments)
    settings, _ = ProcessorMixin.get_processor_dict(source, **arguments)
    about_images, _ = ImageProcessingMixin.get_image_processor_dict(source, **arguments)
    kind = _pil_backend(about_images.get("image_processor_type", ""), Qwen2VLImageProcessorPil)
    images = kind.from_pretrained(source, **arguments)
    image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
    return tokenizer, images, image_token, [settings.get("chat_template"), tokenizer.chat_template]


def _fall_back(checkpoint: Checkpoint, model_type: str, reason: str) -> None:
    """Raises:
    ModelError: the family has no words that go without saying.
    """
    if model_type != "llava":
        raise ModelError(f"{checkpoint.shown}: {reason}; put one for this model into chat_template.jinja")
    _warn_once(f"{checkpoint.shown}: {reason}; LLaVA-1.5's own words are used: USER: <image> ... ASSISTANT:")


@lru_cache(maxsize=64)
def _warn_once(message: str) -> None:
    logger.warning(message)


def _pil_backend(name: str, default: Any) -> Any:
    """The PIL form of an image processor's class: pixels must not depend on whether torchvision is installed."""
    family = name.removesuffix("Pil").removesuffix("Fast")
    return getattr(transformers, f"{family}Pil", default)
