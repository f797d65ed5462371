"""How a mean budget is shared out among the layer groups of a method with late cuts. Knows no method and no tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from star_batch.errors import ConfigError
from star_batch.options import is_count, require
from star_batch.pruning.plan import resolve
from star_batch.wording import quoted


def check_layer(name: str, value: int | float | None) -> None:
    """A layer number (int >= 1) or a share of the depth (float between 0 and 1), or nothing.

    Raises:
        ConfigError: something else.
    """
    is_share = isinstance(value, float) and 0.0 < value < 1.0
    message = f"{name}={quoted(value)}: give a layer number of 1 or more, or a share of the depth between 0.0 and 1.0"
    require(value is None or is_count(value) or is_share, message)


def at_depth(layer: int | float, num_layers: int) -> int:
    """The number of a layer that is given by number or by share of the depth.

    Raises:
        ConfigError: the model has no layers on both sides of it.
    """
    if num_layers < 2:
        raise ConfigError("a late stage needs a model of 2 layers or more; this one has 1")
    if isinstance(layer, float):
        return min(max(1, round(layer * num_layers)), num_layers - 1)
    if not 1 <= layer < num_layers:
        raise ConfigError(f"late_layer={layer}: this model has {num_layers} layers; choose 1 to {num_layers - 1}")
    return layer


def layers_at(depths: Sequence[float], num_layers: int) -> list[int]:
    """The layers at these shares of the depth, rising; fewer where a shallow model has two at one place."""
    return sorted({at_depth(depth, num_layers) for depth in depths})


def lengths_of(layers: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """How many layers there are before, between and after cuts that hold from `layers` on."""
    return tuple(end - first for first, end in pairwise((0, *layers, num_layers)))


@dataclass(frozen=True, slots=True)
class Stages:
    """A schedule: group `g` of `lengths[g]` layers sees `shares[g]` times as many tokens as the first, which has 1.0.

    With `is_first_whole` the first group sees every token, and the shares hold among the others.
    """

    lengths: tuple[int, ...]
    shares: tuple[float, ...]
    is_first_whole: bool = False

    def __call__(self, keep: int | float | None, num_visual: int) -> tuple[int, ...]:
        """Counts whose mean over the layers is `keep`, where the image allows."""
        total = sum(self.lengths) * resolve(keep if keep is not None else 1.0, num_visual)
        if not self.is_first_whole:
            return self._rounded(total, num_visual)
        rest = Stages(self.lengths[1:], self.shares[1:])
        return num_visual, *rest._rounded(total - self.lengths[0] * num_visual, num_visual)

    def _rounded(self, total: float, most: int) -> tuple[int, ...]:
        """Whole numbers with the total asked for, as near to the shares as that allows."""
        exact = _shared_out(total, self.lengths, self.shares, most)
        around = [dict.fromkeys((math.floor(count + 0.5), math.floor(count), math.ceil(count))) for count in exact[:-1]]
        options = [self._completed(first, total, most) for first in product(*around)]
        return min(options, key=lambda counts: self._error(counts, exact, total))

    def _completed(self, first: Sequence[int], total: float, most: int) -> tuple[int, ...]:
        left = total - sum(length * count for length, count in zip(self.lengths, first, strict=False))
        counts = [*first, round(left / self.lengths[-1])]
        for place, count in enumerate(counts):
            counts[place] = max(1, min(count, most, *counts[:place]))
        return tuple(counts)

    def _error(self, counts: Sequence[int], exact: Sequence[float], total: float) -> tuple[float, float]:
        """The cost first, then how far the shares are off; within one token halves go up."""
        cost = sum(length * count for length, count in zip(self.lengths, counts, strict=True))
        if all(abs(count - wanted) <= 1.0 for count, wanted in zip(counts, exact, strict=True)):
            return abs(cost - total), 0.0
        ratios = [count / wanted for count, wanted in zip(counts, exact, strict=True)]
        return abs(cost - total), sum(abs(math.log(ratio / ratios[0])) for ratio in ratios)


def _shared_out(total: float, lengths: Sequence[int], shares: Sequence[float], most: int) -> list[float]:
    """Real numbers in the proportion of `shares`; what the first groups cannot take, the later ones get."""
    unit = total / sum(length * share for length, share in zip(lengths, shares, strict=True))
    first = min(max(unit * shares[0], 1.0), float(most))
    if len(lengths) == 1:
        return [first]
    rest = _shared_out(total - lengths[0] * first, lengths[1:], shares[1:], most)
    return [first, *rest]
