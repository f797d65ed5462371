"""A pruning plan: which tokens go when, for a model of a given depth. Knows no method and no model.

Legend: `N` visual tokens of an image, `L` decoder layers, `K` the layer from which a late step holds,
counted from 0: layers `0..K-1` see what was kept before it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from torch import Tensor

from star_batch.errors import ConfigError
from star_batch.options import Positions


class VisualTokens(NamedTuple):
    """Images as the vision encoder left them; all that an early selection may look at.

    `attention [B, H, Q, N]` softmaxed over the visual keys (Q = 1 for a CLS row), `features [B, N, D]`
    before the projector, `seeds` a number per image that belongs to its record.
    """

    attention: Tensor
    features: Tensor
    seeds: tuple[int, ...]


EarlySelect: TypeAlias = Callable[[VisualTokens, int], Tensor]
"""`(images, num_keep) -> kept [B, num_keep]`, each row sorted unique int64 and a function of its image alone."""

LateSelect: TypeAlias = Callable[[Tensor, int], Tensor]
"""`(attention [H, T, N] of text rows on visual columns, num_keep) -> kept [num_keep]`."""

Counts: TypeAlias = Callable[[int], tuple[int, ...]]
"""`N -> visual tokens kept in each layer group`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LateStep:
    """From layer `layer` (1..L-1) on, only what `select` keeps; it sees the attention of layer `layer - 1`."""

    layer: int
    select: LateSelect


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningPlan:
    """An early selection, late steps in rising order, and the counts of both.

    The late steps cut the decoder into `len(late) + 1` layer groups. Counts depend on `N` alone, so a
    sequence's length in every group is known before it is prefilled. With `is_per_record` two records
    with the same image keep different tokens.
    """

    num_layers: int
    counts: Counts
    early: EarlySelect | None = None
    late: tuple[LateStep, ...] = ()
    positions: Positions = "original"
    is_per_record: bool = False

    @property
    def layer_groups(self) -> tuple[range, ...]:
        """The decoder layers of each group."""
        bounds = [0, *(step.layer for step in self.late), self.num_layers]
        return tuple(range(first, end) for first, end in pairwise(bounds))

    def layer_mean(self, num_visual: int) -> float:
        """Mean over layers of the visual tokens that a layer sees: the fair measure of cost."""
        total = sum(len(group) * count for group, count in zip(self.layer_groups, self.counts(num_visual), strict=True))
        return total / self.num_layers


def resolve(amount: int | float, num_visual: int) -> int:
    """A number of tokens from a number or a share, at least 1 and at most all."""
    wanted = round(amount * num_visual) if isinstance(amount, float) else amount
    return max(1, min(wanted, num_visual))


def check_late_layer(layer: int, num_layers: int) -> None:
    """Raises:
    ConfigError: the model has no layers on both sides of `layer`.
    """
    if num_layers < 2:
        raise ConfigError("a late stage needs a model of 2 layers or more; this one has 1")
    if not 1 <= layer < num_layers:
        raise ConfigError(f"late_layer={layer}: this model has {num_layers} layers; choose 1 to {num_layers - 1}")
