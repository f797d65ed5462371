"""STAR-Pro (arXiv 2609.05916): an early cut by pivots of the features, then two late ones by text-to-image attention.

Knows no model and no batch. As in the authors' public code:

- Early: a column-pivoted QR of the encoder's features, before the projector and not normalised. The next token is the
  one with the largest part that the chosen ones do not explain. It does not look at the question.
- Late: at 3/8 and 3/4 of the depth, by the attention of all text rows after the image, averaged over rows and heads.
- Twice the budget enters, half of it goes on from the first late cut and a quarter from the second: on 32 layers the
  mean is the budget. On other depths the three counts keep these proportions.

Ours: the cuts are scored by the layer before them; positions stay unless `positions` says otherwise (theirs are
counted anew).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from star_batch.pruning import scores
from star_batch.pruning.base import Pruning
from star_batch.pruning.plan import LateStep, PruningPlan, VisualTokens
from star_batch.pruning.stages import Stages, layers_at, lengths_of
from star_batch.pruning.star import select_late

if TYPE_CHECKING:  # options are checked where torch is not
    from torch import Tensor

_DEPTHS = (0.375, 0.75)
_SHARES = (1.0, 0.25, 0.125)


@dataclass(frozen=True, slots=True, kw_only=True)
class StarPro(Pruning):
    """One early and two late cuts."""

    method: Literal["star_pro"] = "star_pro"

    def plan(self, num_layers: int) -> PruningPlan:
        layers = layers_at(_DEPTHS, num_layers)
        lengths = lengths_of(layers, num_layers)
        return self.planned(
            num_layers,
            schedule=Stages(lengths, _SHARES[: len(lengths)]),
            early=_early,
            late=tuple(LateStep(layer=layer, select=select_late) for layer in layers),
        )


def select_pivots(features: Tensor, num_keep: int) -> Tensor:
    """The first `num_keep` columns that a column-pivoted QR of the features takes.

    Args:
        features: `[..., N, D]`, before the projector.
        num_keep: how many to keep, at most N.

    Returns:
        Sorted unique int64 indices `[..., num_keep]`.
    """
    features = features.double()
    return scores.pivots(features @ features.mT, num_keep)


def _early(tokens: VisualTokens, num_keep: int) -> Tensor:
    return select_pivots(tokens.features, num_keep)
