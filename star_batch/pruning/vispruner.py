"""VisPruner (arXiv 2412.01818): some tokens for their attention, the rest for their diversity.

Knows no model. Equal to the authors' published selection wherever that one runs; where an odd number
of candidates remains (theirs raises) the even half may be one longer, and nothing else changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from star_batch.options import check_share
from star_batch.pruning import scores
from star_batch.pruning.base import Pruning
from star_batch.pruning.plan import PruningPlan, VisualTokens

if TYPE_CHECKING:  # options are checked where torch is not
    from torch import Tensor

_STEP = 8  # duplicates dropped per round; the authors' constant


@dataclass(frozen=True, slots=True, kw_only=True)
class VisPruner(Pruning):
    """One early cut; every layer sees the same. `important_ratio`: the share of the tokens kept for their attention."""

    method: Literal["vispruner"] = "vispruner"
    important_ratio: float = 0.5

    def check(self) -> None:
        check_share("important_ratio", self.important_ratio)

    def plan(self, num_layers: int) -> PruningPlan:
        return self.planned(num_layers, early=partial(_early, important_ratio=self.important_ratio))


def select(attention: Tensor, features: Tensor, num_keep: int, important_ratio: float = 0.5) -> Tensor:
    """Important tokens by attention received, then diverse ones by dropping near-duplicates.

    The rounds reorder the candidates by their cosines and split them by that order, so rounding is
    amplified: cosines are computed once per image, in float64. Leading batch dimensions are allowed.

    Args:
        attention: `[H, Q, N]`, or `[H, N]` for one query such as CLS.
        features: `[N, D]`, before the projector.
        num_keep: how many to keep, at most N.
        important_ratio: share of `num_keep` that is taken by attention (rounded down).

    Returns:
        Sorted unique int64 indices `[num_keep]`.
    """
    import torch

    if attention.ndim == features.ndim:
        attention = attention.unsqueeze(-2)
    order = scores.ranked(scores.received(attention))
    num_important = int(num_keep * important_ratio)
    important, rest = order[..., :num_important], order[..., num_important:]
    diverse = _drop_duplicates(scores.cosines(features), rest, num_keep - num_important)
    return torch.cat([important, diverse], dim=-1).sort(dim=-1).values


def _drop_duplicates(cosine: Tensor, rest: Tensor, num_keep: int) -> Tensor:
    """Shorten the ordered candidates `rest [..., M]` to `num_keep`, most similar first.

    The cosines to the odd half are read as whole rows of the symmetric matrix: copies of memory, where picking
    rows and columns would be as many random reads.
    """
    import torch

    if num_keep == 0:
        return rest[..., :0]
    num_tokens = cosine.shape[-1]
    rows = cosine.reshape(-1, num_tokens)
    first_rows = torch.arange(0, len(rows), num_tokens, device=rows.device).view(*cosine.shape[:-2], 1)
    while (excess := rest.shape[-1] - num_keep) > 0:
        even, odd = rest[..., 0::2], rest[..., 1::2]
        picked = rows.index_select(0, (first_rows + odd).flatten()).view(*odd.shape, num_tokens)
        closest = picked.amax(dim=-2).gather(-1, even)
        survivors = even.gather(-1, scores.ranked(closest)[..., min(_STEP, excess) :])
        rest = torch.cat([survivors, odd], dim=-1)
    return rest


def _early(tokens: VisualTokens, num_keep: int, important_ratio: float) -> Tensor:
    return select(tokens.attention, tokens.features, num_keep, important_ratio)
