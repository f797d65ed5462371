"""What the library itself answers: greedy `generate`, one record at a time, with the checkpoint's own processor."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    Qwen2VLImageProcessorPil,
)

from star_batch.records import Record


class Library:
    """A checkpoint in the library's hands, with eager attention."""

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint
        model = AutoModelForImageTextToText.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        )
        self.model: Any = model.eval()

    @cached_property
    def _processor(self) -> Any:
        return AutoProcessor.from_pretrained(self.checkpoint)

    def inputs(self, record: Record) -> dict[str, Any]:
        """What `generate` is given for a record."""
        content = [*({"type": "image"} for _ in record.images), {"type": "text", "text": record.prompt}]
        messages = [{"role": "user", "content": content}]
        if "qwen" in AutoConfig.from_pretrained(self.checkpoint).model_type:
            return self._qwen_inputs(messages, list(record.images))
        text = self._processor.apply_chat_template(messages, add_generation_prompt=True)
        return dict(self._processor(images=list(record.images), text=text, return_tensors="pt"))

    def _qwen_inputs(self, messages: list[Any], images: list[Any]) -> dict[str, Any]:
        """As `Qwen2VLProcessor` does it, which cannot be made without torchvision."""
        tokenizer = AutoTokenizer.from_pretrained(self.checkpoint)
        found = dict(Qwen2VLImageProcessorPil.from_pretrained(self.checkpoint)(images, return_tensors="pt"))
        counts = iter((found["image_grid_thw"].prod(dim=-1) // 4).tolist())
        text: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        first, *rest = text.split("<|image_pad|>")
        text = first + "".join("<|image_pad|>" * next(counts) + part for part in rest)
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        is_image = ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")
        return found | {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": is_image.int(),
        }

    @torch.inference_mode()
    def generate(self, record: Record, max_new_tokens: int) -> tuple[int, ...]:
        """Token ids after the prompt, the stop token included."""
        inputs = self.inputs(record)
        out = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        return tuple(out[0, inputs["input_ids"].shape[1] :].tolist())

    @torch.inference_mode()
    def image_features(self, record: Record) -> list[torch.Tensor]:
        """What the decoder sees of each image, `[N, W]`."""
        inputs = self.inputs(record)
        names = ("pixel_values", "image_sizes", "image_grid_thw")
        found = self.model.model.get_image_features(**{name: inputs[name] for name in names if name in inputs})
        return list(found.pooler_output)

    def positions(self, record: Record) -> torch.Tensor:
        """Position ids `[A, T]` of the whole prompt."""
        inputs = self.inputs(record)
        if not hasattr(self.model.model, "get_rope_index"):
            return torch.arange(inputs["input_ids"].shape[1]).unsqueeze(0)
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw")
        found: tuple[torch.Tensor, torch.Tensor] = self.model.model.get_rope_index(**{n: inputs[n] for n in names})
        return found[0][:, 0]


def generate(checkpoint: str, records: Sequence[Record], max_new_tokens: int) -> list[tuple[int, ...]]:
    """Token ids after the prompts, the stop token included."""
    library = Library(checkpoint)
    return [library.generate(record, max_new_tokens) for record in records]
