"""DivPrune (arXiv 2503.02175): the tokens that are least like each other, a greedy max-min of cosine distances.

Knows no model. The paper measures distances between projected tokens; here between the encoder's features, before the
projector, so that tokens which are dropped need no projection. Neither attention nor the question is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from star_batch.pruning import scores
from star_batch.pruning.base import Pruning
from star_batch.pruning.plan import PruningPlan, VisualTokens

if TYPE_CHECKING:  # options are checked where torch is not
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DivPrune(Pruning):
    """One early cut; every layer sees the same."""

    method: Literal["divprune"] = "divprune"

    def plan(self, num_layers: int) -> PruningPlan:
        return self.planned(num_layers, early=_early)


def select_diverse(features: Tensor, num_keep: int) -> Tensor:
    """Greedily the token whose nearest chosen one is farthest; first the one whose nearest of all is (Algorithm 1).

    Args:
        features: `[..., N, D]`; the distance of two tokens is 1 minus their cosine.
        num_keep: how many to keep, at most N.

    Returns:
        Sorted unique int64 indices `[..., num_keep]`; among equals the earlier token comes first.
    """
    import torch

    distance = 1.0 - scores.cosines(features)
    itself = torch.eye(distance.shape[-1], dtype=torch.bool, device=distance.device)
    nearest = distance.masked_fill(itself, torch.inf).amin(-1)
    chosen: list[Tensor] = []
    while len(chosen) < num_keep:
        best = nearest.argmax(-1, keepdim=True)
        row = distance.take_along_dim(best.unsqueeze(-1), -2).squeeze(-2)
        nearest = row if not chosen else torch.minimum(nearest, row)
        chosen.append(best)
        nearest = nearest.scatter(-1, torch.cat(chosen, dim=-1), -torch.inf)
    return torch.cat(chosen, dim=-1).sort(dim=-1).values


def _early(tokens: VisualTokens, num_keep: int) -> Tensor:
    return select_diverse(tokens.features, num_keep)
