"""Pruning selects: pure functions from attention and features to the indices of the tokens kept.

Knows no model, no text and no batch. A new method is one file, with its options class that makes its plan, and one
line: here for one of ours, or `register_method(...)` in a plugin (`star_batch.plugins`) for one of yours.
"""

from star_batch.errors import ConfigError
from star_batch.pruning.base import METHODS, Pruning, field_names, register_method
from star_batch.pruning.cdpruner import CDPruner
from star_batch.pruning.controls import CONTROLS, NoPruning, RandomPruning, StridePruning
from star_batch.pruning.divprune import DivPrune
from star_batch.pruning.fastv import FastV
from star_batch.pruning.plan import LateStep, PruningPlan, VisualTokens
from star_batch.pruning.pyramiddrop import PyramidDrop
from star_batch.pruning.scores import everything
from star_batch.pruning.star import StarPruning
from star_batch.pruning.star_pro import StarPro
from star_batch.pruning.visionzip import VisionZipUnmerged
from star_batch.pruning.vispruner import VisPruner

register_method(NoPruning)
register_method(RandomPruning)
register_method(StridePruning)
register_method(StarPruning)
register_method(StarPro)
register_method(VisPruner)
register_method(FastV)
register_method(PyramidDrop)
register_method(VisionZipUnmerged)
register_method(DivPrune)
register_method(CDPruner)


def make_plan(pruning: Pruning, num_layers: int, num_visual: int, num_axes: int = 1) -> PruningPlan:
    """The plan of `pruning` for a decoder of `num_layers` layers, tried on an image of `num_visual` tokens.

    Raises:
        ConfigError: the late layer does not exist, the budgets contradict each other, or positions that lie on
            `num_axes` axes cannot be counted anew.
    """
    if pruning.positions == "compact" and num_axes > 1:
        raise ConfigError("positions='compact': this model's images have rows and columns; leave positions as they are")
    plan = pruning.plan(num_layers)
    pruning.check_plan(plan, num_visual)
    return plan


__all__ = [
    "CONTROLS",
    "METHODS",
    "CDPruner",
    "DivPrune",
    "FastV",
    "LateStep",
    "NoPruning",
    "Pruning",
    "PruningPlan",
    "PyramidDrop",
    "RandomPruning",
    "StarPro",
    "StarPruning",
    "StridePruning",
    "VisPruner",
    "VisionZipUnmerged",
    "VisualTokens",
    "everything",
    "field_names",
    "make_plan",
    "register_method",
]
