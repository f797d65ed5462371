"""PyramidDrop (arXiv 2410.17247): all tokens enter, and each quarter of the decoder passes on a share of its own.

Knows no model and no batch. The cuts lie at 1/4, 1/2 and 3/4 of the depth; each keeps the tokens on which the prompt's
last token looks most, averaged over the heads. The published share is one half, a mean of 47 % of the tokens; here the
share follows from the budget. The public code scores by the queries and keys of the layer after a cut; here, as in all
our methods, the layer before it is asked, so that no layer computes twice. The first quarter sees every token: a mean
budget of a quarter of the tokens or less cannot be met.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from star_batch.pruning.base import Pruning
from star_batch.pruning.fastv import select_by_last_row
from star_batch.pruning.plan import LateStep, PruningPlan, resolve
from star_batch.pruning.stages import Stages, layers_at, lengths_of

_DEPTHS = (0.25, 0.5, 0.75)
_BISECTIONS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class PyramidDrop(Pruning):
    """Three late cuts, each to the same share of what the one before has left."""

    method: Literal["pyramiddrop"] = "pyramiddrop"

    def plan(self, num_layers: int) -> PruningPlan:
        layers = layers_at(_DEPTHS, num_layers)
        lengths = lengths_of(layers, num_layers)
        return self.planned(
            num_layers,
            schedule=partial(_schedule, lengths),
            late=tuple(LateStep(layer=layer, select=select_by_last_row) for layer in layers),
        )


def _schedule(lengths: tuple[int, ...], keep: int | float | None, num_visual: int) -> tuple[int, ...]:
    wanted = resolve(keep if keep is not None else 1.0, num_visual) / num_visual
    share = _share_for(wanted * sum(lengths), lengths)
    shares = tuple(share**group for group in range(len(lengths)))
    return Stages(lengths, shares, is_first_whole=True)(keep, num_visual)


def _share_for(total: float, lengths: tuple[int, ...]) -> float:
    """The share `r` with `sum(lengths[g] * r ** g) == total`, or as near as shares from 0 to 1 come: by bisection."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        is_below = sum(length * middle**group for group, length in enumerate(lengths)) < total
        low, high = (middle, high) if is_below else (low, middle)
    return high
