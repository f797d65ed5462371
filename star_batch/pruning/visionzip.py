"""VisionZip's selection without its merging (arXiv 2412.04467), and named so: it keeps tokens, it makes none.

Knows no model. VisionZip keeps *dominant* tokens by the attention that they receive, and merges all others into
*contextual* ones at even distances. Here the contextual tokens are kept as they are: a token that is an average of
others has no place in the picture, so no report could show it, and no row could say what it saw. Of 64 tokens the
authors' 54 are dominant; the share is theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from star_batch.options import check_share
from star_batch.pruning import scores
from star_batch.pruning.base import Pruning
from star_batch.pruning.controls import select_stride
from star_batch.pruning.plan import PruningPlan, VisualTokens

if TYPE_CHECKING:  # options are checked where torch is not
    from torch import Tensor

_DOMINANT = 54 / 64


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionZipUnmerged(Pruning):
    """One early cut. `dominant_ratio`: the share of the kept tokens that is chosen by attention, the rest evenly."""

    method: Literal["visionzip_unmerged"] = "visionzip_unmerged"
    dominant_ratio: float = _DOMINANT

    def check(self) -> None:
        check_share("dominant_ratio", self.dominant_ratio)

    def plan(self, num_layers: int) -> PruningPlan:
        return self.planned(num_layers, early=partial(_early, dominant_ratio=self.dominant_ratio))


def select_dominant(attention: Tensor, num_keep: int, dominant_ratio: float = _DOMINANT) -> Tensor:
    """The tokens that receive the most attention, then every so many of the others.

    Args:
        attention: `[..., H, Q, N]` that the visual keys receive; Q = 1 for a CLS row.
        num_keep: how many to keep, at most N.
        dominant_ratio: share of `num_keep` that is taken by attention (rounded down).

    Returns:
        Sorted unique int64 indices `[..., num_keep]`.
    """
    import torch

    order = scores.ranked(scores.received(attention))
    num_dominant = int(num_keep * dominant_ratio)
    rest = order[..., num_dominant:].sort(dim=-1).values
    evenly = select_stride(rest.shape[-1], num_keep - num_dominant, rest.device)
    return torch.cat([order[..., :num_dominant], rest[..., evenly]], dim=-1).sort(dim=-1).values


def _early(tokens: VisualTokens, num_keep: int, dominant_ratio: float) -> Tensor:
    return select_dominant(tokens.attention, num_keep, dominant_ratio)
