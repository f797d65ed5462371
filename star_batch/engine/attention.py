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
from star_batch.engine.prefix import Prefix
from star_batch.engine.upload import upload

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

    Spans and queries are what comes after the `prefix` that all sequences begin with, if they do; `slots` are also its.

    If `score_layer` is set, `scores` holds for that layer and each sequence the attention of the text
    rows after the last image on the visual columns, `[H, T, N]` in float32, softmaxed over all keys that a
    row sees. Without text after the image the row of the last token stands for it.
    """

    def __init__(
        self,
        cache: KVCache,
        spans: list[Span],
        slots: Tensor,
        *,
        score_layer: int | None = None,
        prefix: Prefix | None = None,
    ) -> None:
        self.spans = spans
        self.scores: list[Tensor] = []
        self._cache = cache
        self._slots = slots
        self._score_layer = score_layer
        self._prefix = prefix
        self._num_before = 0
        if prefix is not None:
            self._num_before = prefix.length
            self._order = upload(_prefixed(spans, prefix.length), slots.device)
        if score_layer is not None:
            places = upload(torch.cat([span.visual for span in spans]), slots.device)
            self._visual = places.split([len(span.visual) for span in spans])
        self._causal = choose_causal([span.length for span in spans], slots.device, cache.dtype, self._num_before)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        if self._prefix is not None:
            key, value = self._prefix.before(layer, key, value, self._order)
        self._cache.write(layer, self._slots, key, value)
        if layer == self._score_layer:
            self.scores = self._text_to_visual(query, key, scaling)
        return self._causal(query, key, value, scaling)

    def _text_to_visual(self, query: Tensor, key: Tensor, scaling: float) -> list[Tensor]:
        keys = key.split([self._num_before + span.length for span in self.spans], dim=1)
        each = zip(self.spans, self._visual, keys, strict=True)
        return [_text_to_visual(span, visual, query, own, scaling) for span, visual, own in each]


def _prefixed(spans: list[Span], num_before: int) -> Tensor:
    """Order of keys with a prefix before each span's, among the prefix's and then all spans'."""
    prefix = torch.arange(num_before)
    own = (torch.arange(num_before + span.start, num_before + span.end) for span in spans)
    return torch.cat([part for tokens in own for part in (prefix, tokens)])


def _text_to_visual(span: Span, visual: Tensor, query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Of all packed queries and one sequence's keys; `visual` is the span's, on their device."""
    num_rows, num_keys = max(1, span.after), key.shape[1]
    rows = query[:, span.end - num_rows : span.end].float() * scaling
    grouped = rows.unflatten(0, (key.shape[0], -1))
    logits = (grouped @ key[:, None].float().mT).flatten(0, 1)
    future = torch.ones_like(logits[0], dtype=torch.bool).triu(diagonal=num_keys - num_rows + 1)
    attention: Tensor = logits.masked_fill(future, -torch.inf).softmax(dim=-1)
    return attention[..., num_keys - span.length + visual]
