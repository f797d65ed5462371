"""FastV (arXiv 2403.06764): one cut after the first layers, by the attention of the prompt's last token.

Knows no model and no batch. All tokens enter; from layer K on only those stay that the last token looked at most in
layer K - 1, averaged over the heads. The paper's K is 2; the last token's row is that of the public code, where the
paper speaks of the attention from all tokens. The first K layers see every token, so a small mean budget cannot be met
in a shallow model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from star_batch.pruning import scores
from star_batch.pruning.base import Pruning
from star_batch.pruning.plan import LateStep, PruningPlan
from star_batch.pruning.stages import Stages, at_depth, check_layer

if TYPE_CHECKING:  # options are checked where torch is not
    from torch import Tensor

_LAYER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FastV(Pruning):
    """`late_layer`: the first layer after the cut, a number (2 unless given) or a share of the depth."""

    method: Literal["fastv"] = "fastv"
    late_layer: int | float | None = None

    def check(self) -> None:
        check_layer("late_layer", self.late_layer)

    def plan(self, num_layers: int) -> PruningPlan:
        layer = at_depth(self.late_layer if self.late_layer is not None else _LAYER, num_layers)
        schedule = Stages((layer, num_layers - layer), (1.0, 1.0), is_first_whole=True)
        return self.planned(num_layers, schedule=schedule, late=(LateStep(layer=layer, select=select_by_last_row),))


def select_by_last_row(attention: Tensor, num_keep: int) -> Tensor:
    """The visual tokens that the prompt's last token attends to most.

    Args:
        attention: the text rows' attention on the visual columns, `[H, T, N]`.
        num_keep: how many to keep, at most N.

    Returns:
        Sorted unique int64 indices `[num_keep]`.
    """
    return scores.top(scores.received(attention[:, -1:]), num_keep)
