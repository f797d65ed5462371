"""Attention of packed sequences over the paged cache, called by the library's own decoder layers.

The layers hand their rotated queries, keys and values to the function registered here, and with them
the batch that the engine runs: a `PackedPrefill`, a `GatheredDecode` or an `InPlaceDecode`. Knows no
pruning: a prefill may be asked for the text rows' attention on the visual columns, and does not ask what for.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from star_batch.engine.kv_cache import KVCache
from star_batch.models.attention import causal_attention

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

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        self._cache.write(layer, self._slots, key, value)
        if layer == self._score_layer:
            self.scores = [_text_to_visual(span, query, key, scaling) for span in self.spans]
        return causal_attention(query, key, value, [span.length for span in self.spans], scaling)


def _text_to_visual(span: Span, query: Tensor, key: Tensor, scaling: float) -> Tensor:
    num_rows = max(1, span.after)
    rows = query[:, span.end - num_rows : span.end].float() * scaling
    grouped = rows.unflatten(0, (key.shape[0], -1))
    logits = (grouped @ key[:, None, span.start : span.end].float().mT).flatten(0, 1)
    first = span.length - num_rows
    future = torch.ones_like(logits[0], dtype=torch.bool).triu(diagonal=first + 1)
    attention: Tensor = logits.masked_fill(future, -torch.inf).softmax(dim=-1)
    return attention[..., span.visual.to(attention.device)]


class GatheredDecode:
    """One new token for each of several sequences, all in one kernel call over gathered keys and values.

    For every layer group: `new_slots [B]` where the new token goes, `slots [B, S]` all tokens of a row
    (the new one included, padded with any slot), `is_held [B, S]` what is not padding.
    """

    def __init__(self, cache: KVCache, new_slots: list[Tensor], slots: list[Tensor], is_held: list[Tensor]) -> None:
        self._cache = cache
        self._new_slots = new_slots
        self._slots = slots
        self._masks = [held[:, None, None] for held in is_held]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        group = self._cache.group_of(layer)
        self._cache.write(layer, self._new_slots[group], key, value)
        keys, values = self._cache.read(layer, self._slots[group])
        mask = self._masks[group]
        grouped = _grouped(query, key).to(self._cache.dtype)
        out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scaling)
        return out.flatten(1, 2).transpose(0, 1).to(query.dtype)


class InPlaceDecode:
    """One new token for each of several sequences, row by row, reading keys and values where they lie.

    A kernel call per row costs microseconds and spares copying the whole cache at every step: on CPU the
    better bargain for all but tiny models. `rows` holds, for every layer group, each row's slots: a slice
    where its pages lie side by side, else `[S]` indices, which are gathered.
    """

    def __init__(self, cache: KVCache, new_slots: list[Tensor], rows: list[list[slice | Tensor]]) -> None:
        self._cache = cache
        self._new_slots = new_slots
        self._rows = rows

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        group = self._cache.group_of(layer)
        self._cache.write(layer, self._new_slots[group], key, value)
        queries = _grouped(query, key).to(self._cache.dtype) * scaling
        out = [
            _one_query(row_query, *self._cache.read_row(layer, slots))
            for row_query, slots in zip(queries, self._rows[group], strict=True)
        ]
        return torch.stack(out).flatten(1, 2).transpose(0, 1).to(query.dtype)


def _one_query(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`[H_kv, H / H_kv, d]` of one token; as plain products, which take half the time of the fused kernel here."""
    return torch.bmm(torch.bmm(query, key.mT).softmax(dim=-1), value)


def _grouped(query: Tensor, key: Tensor) -> Tensor:
    """Queries `[H, B, d]` as `[B, H_kv, H / H_kv, d]`: the heads of one key head become queries of one sequence."""
    grouped: Tensor = query.transpose(0, 1).unflatten(1, (key.shape[0], -1))
    return grouped
