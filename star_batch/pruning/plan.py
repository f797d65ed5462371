"""A pruning plan: which tokens go when, for a model of a given depth. Knows no method and no model.

Legend: `N` visual tokens of an image, `L` decoder layers, `K` the layer from which a late step holds,
counted from 0: layers `0..K-1` see what was kept before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from star_batch.options import Positions, check_amount, require
from star_batch.pruning import scores

if TYPE_CHECKING:  # options are checked where torch is not
    from torch import Tensor


class VisualTokens(NamedTuple):
    """Images as the vision encoder left them; all that an early selection may look at.

    `attention [B, H, Q, N]` as the encoder computed it: softmaxed over the visual keys or, for a CLS row (Q = 1), over
    these and CLS, whose column is dropped. `features [B, N, D]` before the projector, `seeds` a number per image that
    belongs to its record. Where the plan `reads_prompt`, `relevance [B, N]`: the mean cosine of each projected token to
    the embeddings of the prompt's words.
    """

    attention: Tensor
    features: Tensor
    seeds: tuple[int, ...]
    relevance: Tensor | None = None


EarlySelect: TypeAlias = "Callable[[VisualTokens, int], Tensor]"
"""`(images, num_keep) -> kept [B, num_keep]`, each row sorted unique int64 and a function of its image alone."""

LateSelect: TypeAlias = "Callable[[Tensor, int], Tensor]"
"""`(attention [H, T, N] of text rows on visual columns, num_keep) -> kept [num_keep]`."""

Schedule: TypeAlias = Callable[[int | float | None, int], tuple[int, ...]]
"""`(keep, N) -> visual tokens kept in each layer group`, the later ones never more than the earlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LateStep:
    """From layer `layer` (1..L-1) on, only what `select` keeps; it sees the attention of layer `layer - 1`."""

    layer: int
    select: LateSelect


@dataclass(frozen=True, slots=True, kw_only=True)
class MassBudget:
    """A budget that follows the image: the fewest tokens that receive a share `mass` of its attention.

    Never fewer than `least` nor more than `most`, numbers or shares of the image's tokens. Where a number and a share
    contradict each other on an image, `least` holds.
    """

    mass: float
    least: int | float
    most: int | float

    def keep(self, attention: Tensor, num_visual: int) -> int:
        """A number of tokens for an image of `num_visual`, from the attention `[H, Q, N]` that they receive."""
        least, most = resolve(self.least, num_visual), resolve(self.most, num_visual)
        return max(least, min(scores.num_for_mass(scores.received(attention), self.mass), most))

    def most_for(self, num_visual: int) -> int:
        """The most tokens that an image of `num_visual` may keep, whatever it shows."""
        return max(resolve(self.least, num_visual), resolve(self.most, num_visual))


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningPlan:
    """An early selection, late steps in rising order, and the counts of both.

    The late steps cut the decoder into `len(late) + 1` layer groups. Counts depend on an image alone, on its `N`
    or with `budget` also on its attention, so a sequence's length in every group is known before it is
    prefilled. With `is_per_record` two records with the same image keep different tokens; with `reads_prompt` two
    with different questions do.
    """

    num_layers: int
    schedule: Schedule
    keep: int | float | None = None
    budget: MassBudget | None = None
    early: EarlySelect | None = None
    late: tuple[LateStep, ...] = ()
    positions: Positions = "original"
    is_per_record: bool = False
    reads_prompt: bool = False

    @property
    def layer_groups(self) -> tuple[range, ...]:
        """The decoder layers of each group."""
        bounds = [0, *(step.layer for step in self.late), self.num_layers]
        return tuple(range(first, end) for first, end in pairwise(bounds))

    def counts(self, num_visual: int) -> tuple[int, ...]:
        """Visual tokens in each layer group for an image of `num_visual`; with a `budget`, the most there may be."""
        return self.schedule(self.keep if self.budget is None else self.budget.most_for(num_visual), num_visual)

    def counts_of(self, attention: Tensor, num_visual: int) -> tuple[int, ...]:
        """The same for one image whose tokens receive the attention `[H, Q, N]`."""
        keep = self.keep if self.budget is None else self.budget.keep(attention, num_visual)
        return self.schedule(keep, num_visual)

    def layer_mean(self, num_visual: int) -> float:
        """Mean over layers of the visual tokens that a layer sees: the fair measure of cost."""
        total = sum(len(group) * count for group, count in zip(self.layer_groups, self.counts(num_visual), strict=True))
        return total / self.num_layers


def resolve(amount: int | float, num_visual: int) -> int:
    """A number of tokens from a number or a share, at least 1 and at most all."""
    wanted = round(amount * num_visual) if isinstance(amount, float) else amount
    return max(1, min(wanted, num_visual))


def each_once(keeps: Iterable[int | float], num_visual: int) -> tuple[int | float, ...]:
    """Budgets of an image, each number of tokens once: where a share is the same as another, the first is taken.

    Raises:
        ConfigError: one is no budget, or above what the image has.
    """
    found: dict[int, int | float] = {}
    for keep in keeps:
        check_amount("keep", keep)
        has_them = isinstance(keep, float) or keep <= num_visual
        require(has_them, f"keep={keep}: an image has {num_visual} visual tokens here")
        found.setdefault(resolve(keep, num_visual), keep)
    return tuple(found.values())


def throughout(keep: int | float | None, num_visual: int) -> tuple[int, ...]:
    """The schedule of a method without a late step: every layer sees the same."""
    return (resolve(keep if keep is not None else 1.0, num_visual),)
