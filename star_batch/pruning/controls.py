"""The honest controls: nothing, chance, and every so many. A method that does not beat them is not worth its cost.

Knows nothing of attention or features.
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from star_batch.options import Pruning
from star_batch.pruning.plan import EarlySelect, PruningPlan, VisualTokens, budget_of, throughout


def select_random(num_tokens: int, num_keep: int, seed: int) -> Tensor:
    """`num_keep` of `num_tokens` by chance, sorted; the same for the same seed on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(num_tokens, generator=generator)[:num_keep].sort().values


def select_stride(num_tokens: int, num_keep: int, device: torch.device | None = None) -> Tensor:
    """`num_keep` of `num_tokens` at even distances, each in the middle of its share, sorted."""
    return ((2 * torch.arange(num_keep, device=device) + 1) * num_tokens) // (2 * num_keep)


def plan_none(pruning: Pruning, num_layers: int) -> PruningPlan:
    """Every token in every layer."""
    return PruningPlan(num_layers=num_layers, schedule=lambda _, num_visual: (num_visual,), positions=pruning.positions)


def plan_random(pruning: Pruning, num_layers: int) -> PruningPlan:
    """Chance, seeded by the record: a rerun draws the same tokens."""
    return replace(_plan_early(partial(_random, pruning.seed), pruning, num_layers), is_per_record=True)


def plan_stride(pruning: Pruning, num_layers: int) -> PruningPlan:
    """Even distances in raster order."""
    return _plan_early(_stride, pruning, num_layers)


def _plan_early(early: EarlySelect, pruning: Pruning, num_layers: int) -> PruningPlan:
    return PruningPlan(
        num_layers=num_layers,
        schedule=throughout,
        keep=pruning.keep,
        budget=budget_of(pruning),
        early=early,
        positions=pruning.positions,
    )


def _random(seed: int, tokens: VisualTokens, num_keep: int) -> Tensor:
    num_tokens = tokens.features.shape[-2]
    kept = [select_random(num_tokens, num_keep, own ^ seed) for own in tokens.seeds]
    return torch.stack(kept).to(tokens.features.device)


def _stride(tokens: VisualTokens, num_keep: int) -> Tensor:
    num_images, num_tokens, _ = tokens.features.shape
    return select_stride(num_tokens, num_keep, tokens.features.device).expand(num_images, -1)
