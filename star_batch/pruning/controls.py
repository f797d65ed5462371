"""The honest controls: nothing, chance, and every so many. A method that does not beat them is not worth its cost.

Knows nothing of attention or features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from star_batch.options import is_seed, require
from star_batch.pruning.base import Pruning
from star_batch.pruning.plan import PruningPlan, VisualTokens
from star_batch.wording import quoted

if TYPE_CHECKING:  # options are checked where torch is not
    import torch
    from torch import Tensor

CONTROLS = ("none", "random", "stride")
"""What every method is compared with: one that is no better is not worth its cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPruning(Pruning):
    """Every token in every layer."""

    method: Literal["none"] = "none"

    def check_budget(self) -> None:
        message = f"method='none' keeps every token: leave out keep={quoted(self.keep)}, or choose a method"
        require(self.keep is None, message)
        require(self.keep_mass is None, "method='none' keeps every token: leave out keep_mass, or choose a method")

    def plan(self, num_layers: int) -> PruningPlan:
        return self.planned(num_layers, schedule=_everything)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomPruning(Pruning):
    """Chance, seeded by `seed` and by the record: a rerun draws the same tokens."""

    method: Literal["random"] = "random"
    seed: int = 0

    def check(self) -> None:
        require(is_seed(self.seed), f"seed={quoted(self.seed)}: give a whole number from 0 to 2**63 - 1")

    def plan(self, num_layers: int) -> PruningPlan:
        return self.planned(num_layers, early=partial(_random, self.seed), is_per_record=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class StridePruning(Pruning):
    """Even distances in raster order."""

    method: Literal["stride"] = "stride"

    def plan(self, num_layers: int) -> PruningPlan:
        return self.planned(num_layers, early=_stride)


def select_random(num_tokens: int, num_keep: int, seed: int) -> Tensor:
    """`num_keep` of `num_tokens` by chance, sorted; the same for the same seed on every device."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(num_tokens, generator=generator)[:num_keep].sort().values


def select_stride(num_tokens: int, num_keep: int, device: torch.device | None = None) -> Tensor:
    """`num_keep` of `num_tokens` at even distances, each in the middle of its share, sorted."""
    import torch

    return ((2 * torch.arange(num_keep, device=device) + 1) * num_tokens) // (2 * num_keep)


def _everything(keep: int | float | None, num_visual: int) -> tuple[int, ...]:
    return (num_visual,)


def _random(seed: int, tokens: VisualTokens, num_keep: int) -> Tensor:
    import torch

    num_tokens = tokens.features.shape[-2]
    kept = [select_random(num_tokens, num_keep, own ^ seed) for own in tokens.seeds]
    return torch.stack(kept).to(tokens.features.device)


def _stride(tokens: VisualTokens, num_keep: int) -> Tensor:
    num_images, num_tokens, _ = tokens.features.shape
    return select_stride(num_tokens, num_keep, tokens.features.device).expand(num_images, -1)
