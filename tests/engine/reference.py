"""What the library itself answers: greedy `generate`, one record at a time, with the checkpoint's own processor."""

from collections.abc import Sequence

import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from star_batch.records import Record


def generate(checkpoint: str, records: Sequence[Record], max_new_tokens: int) -> list[tuple[int, ...]]:
    """Token ids after the prompt, the stop token included."""
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    processor = AutoProcessor.from_pretrained(checkpoint)
    return [_generate_one(model.eval(), processor, record, max_new_tokens) for record in records]


@torch.inference_mode()
def _generate_one(model: object, processor: object, record: Record, max_new_tokens: int) -> tuple[int, ...]:
    content = [{"type": "image"}, {"type": "text", "text": record.prompt}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)  # type: ignore[attr-defined]
    inputs = processor(images=record.image, text=text, return_tensors="pt")  # type: ignore[operator]
    out = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)  # type: ignore[attr-defined]
    return tuple(out[0, inputs["input_ids"].shape[1] :].tolist())
