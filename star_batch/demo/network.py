"""The library's own layers called one by one, so that visual tokens can be left out on the way.

Positions are the original ones. This module does not know why a token is left out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, apply_rotary_pos_emb

from star_batch.demo.packing import IGNORED, Packed, prefix_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Which visual tokens stay: `early` before the decoder, `late` of them from `late_layer` on.

    With `late_share` instead of `late`, each pair keeps its own: that share of the early tokens, those that the text
    rows of its prompt look at most in the layer before, as STAR chooses them.
    """

    early: Tensor  # bool [B, N]
    late: Tensor | None = None  # bool [B, N]
    late_share: float | None = None
    late_layer: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the vision tower makes of `B` images at the feature layer."""

    cls: Tensor  # [B, D]
    features: Tensor  # [B, N, D], projected
    attention: Tensor  # [B, N], CLS row of the block that outputs the layer: head mean, patches only, sums to one


def look(model: LlavaForConditionalGeneration, pixels: Tensor) -> Sight:
    tower = model.model.vision_tower
    *first, last = tower.encoder.layers[: model.config.vision_feature_layer + 1]
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in first:
        hidden = layer(hidden, None)
    attention = _cls_attention(last, hidden)
    hidden = last(hidden, None)
    features = model.model.multi_modal_projector(hidden[:, 1:])
    return Sight(cls=hidden[:, 0], features=features, attention=attention)


def _cls_attention(block: CLIPEncoderLayer, hidden: Tensor) -> Tensor:
    normed, layer = block.layer_norm1(hidden), block.self_attn
    query, key = (proj(normed).unflatten(2, (layer.num_heads, -1)) for proj in (layer.q_proj, layer.k_proj))
    score = torch.einsum("bhd,bnhd->bhn", query[:, 0], key) * layer.scale
    row = score.float().softmax(-1).mean(1)[:, 1:]
    patches: Tensor = row / row.sum(1, keepdim=True)
    return patches


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Packed rows of `S` tokens: prefix, visual tokens, text; owner 0 is what all pairs see."""

    kept: Tensor  # [B, K], padded with tokens that no mask shows
    position: Tensor  # [B, S]
    owner: Tensor  # [B, S]

    @property
    def text_start(self) -> int:
        return len(prefix_ids()) + self.kept.shape[1]

    def mask(self, keep: Tensor) -> Tensor:
        """Bool `[B, 1, S, S]`: causal, shared or own columns only, of the visual ones those in `keep`.

        `keep` is `[B, N]`, or `[B, owners, N]` where each pair has its own.
        """
        keep = keep if keep.ndim == 3 else keep[:, None]
        visible = keep.gather(2, self.kept[:, None].expand(-1, keep.shape[1], -1))
        own = (self.owner[:, None] == 0) | (self.owner[:, None] == self.owner[:, :, None])
        rows = self.owner.clamp(max=keep.shape[1] - 1)[:, :, None].expand(-1, -1, visible.shape[2])
        own[:, :, len(prefix_ids()) : self.text_start] = visible.gather(1, rows)
        return own[:, None].tril()


def answer_logits(model: LlavaForConditionalGeneration, features: Tensor, packed: Packed, drop: Drop) -> Tensor:
    """Logits `[A, V]` at the answer tokens of all rows, given projected features `[B, N, D]`."""
    decoder = model.model.language_model
    layout = lay_out(packed, drop.early)
    hidden = _embed(model, features, packed, layout)
    rotary, mask, late = decoder.rotary_emb(hidden, layout.position), layout.mask(drop.early), drop.late
    for index, layer in enumerate(decoder.layers):
        if late is not None and index == drop.late_layer:
            mask = layout.mask(late)
        if drop.late_share is not None and index == drop.late_layer - 1:
            late = most_read(text_scores(layer, hidden, rotary, mask, packed, layout), packed, layout, drop)
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
    text = hidden[:, layout.text_start :]
    logits: Tensor = model.lm_head(decoder.norm(text[packed.target != IGNORED]))
    return logits


@torch.no_grad()
def text_scores(
    layer: LlamaDecoderLayer,
    hidden: Tensor,
    rotary: tuple[Tensor, Tensor],
    mask: Tensor,
    packed: Packed,
    layout: Layout,
) -> Tensor:
    """Attention `[B, owners, K]` on the visual tokens: the mean over heads and over the text rows of each prompt."""
    normed, attention, start = layer.input_layernorm(hidden), layer.self_attn, layout.text_start
    query, key = (proj(normed).unflatten(2, (-1, attention.head_dim)) for proj in (attention.q_proj, attention.k_proj))
    query, key = apply_rotary_pos_emb(query.transpose(1, 2), key.transpose(1, 2), *rotary)
    key = key.repeat_interleave(attention.num_key_value_groups, 1)
    score = query[:, :, start:] @ key.transpose(2, 3) * attention.scaling
    row = score.masked_fill(~mask[:, :, start:], -torch.inf).softmax(-1).mean(1)[:, :, len(prefix_ids()) : start]
    prompts = F.one_hot(packed.owner * packed.is_prompt, packed.num_owners).to(row.dtype)
    means: Tensor = prompts.transpose(1, 2) @ row / prompts.sum(1)[:, :, None].clamp(min=1)
    return means


def most_read(scores: Tensor, packed: Packed, layout: Layout, drop: Drop) -> Tensor:
    """Which visual tokens each pair keeps, `[B, owners, N]`.

    Visual tokens are shared: where there are several pairs they go on to see all early ones.
    """
    assert drop.late_share is not None
    num_keep = (drop.early.sum(1) * drop.late_share).round().long()
    rank = scores.argsort(dim=2, descending=True).argsort(dim=2)
    is_first = (rank < num_keep[:, None, None]) & drop.early.gather(1, layout.kept)[:, None]
    kept = layout.kept[:, None].expand_as(is_first)
    late = drop.early.new_zeros(*scores.shape[:2], drop.early.shape[1]).scatter(2, kept, is_first)
    late[:, 0] = late[:, 1] if packed.num_pairs == 1 else drop.early
    return late


def lay_out(packed: Packed, keep: Tensor) -> Layout:
    """Rows with the visual tokens of `keep` alone; each keeps the position it had among all."""
    order = torch.argsort((~keep).to(torch.uint8), dim=1, stable=True)
    kept = order[:, : int(keep.sum(1).max())]
    prefix = torch.arange(len(prefix_ids())).expand(len(kept), -1)
    position = torch.cat([prefix, kept + prefix.shape[1], packed.position], dim=1)
    owner = torch.cat([torch.zeros_like(prefix), torch.zeros_like(kept), packed.owner], dim=1)
    return Layout(kept=kept, position=position, owner=owner)


def _embed(model: LlavaForConditionalGeneration, features: Tensor, packed: Packed, layout: Layout) -> Tensor:
    words = model.model.language_model.embed_tokens
    prefix = words(torch.tensor(prefix_ids())).expand(len(packed.ids), -1, -1)
    visual = features.gather(1, layout.kept[:, :, None].expand(-1, -1, features.shape[2]))
    return torch.cat([prefix, visual, words(packed.ids)], dim=1)
