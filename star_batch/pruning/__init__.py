"""Pruning selects: pure functions from attention and features to the indices of the tokens kept.

Knows no model, no text and no batch. A new method is one file here and one line in `METHODS`.
"""

from collections.abc import Callable

from star_batch.options import Method, Pruning
from star_batch.pruning import controls, star, vispruner
from star_batch.pruning.plan import LateStep, PruningPlan, VisualTokens
from star_batch.pruning.scores import everything

METHODS: dict[Method, Callable[[Pruning, int], PruningPlan]] = {
    "none": controls.plan_none,
    "random": controls.plan_random,
    "stride": controls.plan_stride,
    "star": star.plan,
    "vispruner": vispruner.plan,
}


def make_plan(pruning: Pruning, num_layers: int, num_visual: int) -> PruningPlan:
    """The plan of `pruning` for a decoder of `num_layers` layers, tried on an image of `num_visual` tokens.

    Raises:
        ConfigError: the late layer does not exist, or the budgets contradict each other.
    """
    plan = METHODS[pruning.method](pruning, num_layers)
    plan.counts(num_visual)
    return plan


__all__ = ["METHODS", "LateStep", "PruningPlan", "VisualTokens", "everything", "make_plan"]
