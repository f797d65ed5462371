"""Pruning selects: pure functions from attention and features to the indices of the tokens kept.

Knows no model, no text and no batch. A new method is one file here and one line in `METHODS`.
"""

from collections.abc import Callable

from star_batch.errors import ConfigError
from star_batch.options import Method, Pruning
from star_batch.pruning import controls, star, vispruner
from star_batch.pruning.plan import LateStep, PruningPlan, VisualTokens, resolve
from star_batch.pruning.scores import everything

METHODS: dict[Method, Callable[[Pruning, int], PruningPlan]] = {
    "none": controls.plan_none,
    "random": controls.plan_random,
    "stride": controls.plan_stride,
    "star": star.plan,
    "vispruner": vispruner.plan,
}


def make_plan(pruning: Pruning, num_layers: int, num_visual: int, num_axes: int = 1) -> PruningPlan:
    """The plan of `pruning` for a decoder of `num_layers` layers, tried on an image of `num_visual` tokens.

    Raises:
        ConfigError: the late layer does not exist, the budgets contradict each other, or positions that lie on
            `num_axes` axes cannot be counted anew.
    """
    if pruning.positions == "compact" and num_axes > 1:
        raise ConfigError("positions='compact': this model's images have rows and columns; leave positions as they are")
    plan = METHODS[pruning.method](pruning, num_layers)
    _check_stages(pruning, plan, num_visual)
    mean, keep = plan.layer_mean(num_visual), pruning.keep
    if keep is not None and abs(mean - resolve(keep, num_visual)) > 1:
        given = f"early_keep={pruning.early_keep}, late_keep={pruning.late_keep}, late_layer={pruning.late_layer}"
        message = f"keep={keep} cannot be met with {given}: layers would see {mean:g} of {num_visual} tokens on average"
        raise ConfigError(message)
    return plan


def _check_stages(pruning: Pruning, plan: PruningPlan, num_visual: int) -> None:
    late = pruning.late_keep
    if late is not None and resolve(late, num_visual) > (early := plan.counts(num_visual)[0]):
        raise ConfigError(f"early_keep={early} and late_keep={late}: the late stage keeps some of the early tokens")


__all__ = ["METHODS", "LateStep", "PruningPlan", "VisualTokens", "everything", "make_plan"]
