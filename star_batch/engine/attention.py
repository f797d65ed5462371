"""Attention of packed sequences over the paged cache, called by the library's own decoder layers.

The layers hand their rotated queries, keys and values to the function registered here, and with them
the batch that the engine runs: a `PackedPrefill`, or one of `decode`. Knows no pruning: a prefill may be
asked for the text rows' attention on the visual columns, and does not ask what for.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from star_batch.engine.causal import choose_causal
from star_batch.engine.kv_cache import KVCache

ATTENTION = "star_batch_packed"


class BatchAttention(Protocol):
    """How one batch attends in one layer."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Queries `[H, T, d]`, keys and values `[H_kv, T, d]` of packed tokens to outputs `[H, T, d]`."""


def _packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    batch: BatchAttention,
    **_: Any,
) -> tuple[Tensor, None]:
    out = batch.attend(module.layer_idx, query[0], key[0], value[0], scaling)  # type: ignore[arg-type]
    return out.transpose(0, 1).unsqueeze(0), None


AttentionInterface.register(ATTENTION, _packed_attention)


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Where one packed sequence lies, from `start` on.

    `visual` places of its visual tokens, counted from its start, on the host; `after` text tokens follow the last of
    its images.
    """

    start: int
    length: int
    visual: Tensor
    after: int

    @property
    def end(self) -> int:
        return self.start + self.length


class PackedPrefill:
    """Causal attention within each of several packed sequences; keys and values go to the cache.

    If `score_layer` is set, `scores` holds for that layer and each sequence the attention of the text
    rows after the last image on the visual columns, `[H, T, N]` in float32, softmaxed over all keys that a
    row sees. Without text after the image the row of the last token stands for it.
    """

    def __init__(self, cache: KVCache, spans: list[Span], slots: Tensor, score_layer: int | None = None) -> None:
        self.spans = spans
        self.scores: list[Tensor] = []
        self._cache = cache
        self._slots = slots
        self._score_layer = score_layer
        self._causal = choose_causal([span.length for span in spans], slots.device, cache.dtype)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        self._cache.write(layer, self._slots, key, value)
        if layer == self._score_layer:
            self.scores = [_text_to_visual(span, query, key, scaling) for span in self.spans]
        return self._causal(query, key, value, scaling)


def _text_to_visual(span: Span, query: Tensor, key: Tensor, scaling: float) -> Tensor:
    num_rows = max(1, span.after)
    rows = query[:, span.end - num_rows : span.end].float() * scaling
    grouped = rows.unflatten(0, (key.shape[0], -1))
    logits = (grouped @ key[:, None, span.start : span.end].float().mT).flatten(0, 1)
    first = span.length - num_rows
    future = torch.ones_like(logits[0], dtype=torch.bool).triu(diagonal=first + 1)
    attention: Tensor = logits.masked_fill(future, -torch.inf).softmax(dim=-1)
    return attention[..., span.visual.to(attention.device)]
