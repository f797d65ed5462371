"""Which visual tokens a training step leaves out: the model has to bear missing background.

Every thing keeps at least a few of its patches, since a question about a vanished thing would teach guessing.
This module does not know the model.
"""

import random

import torch
from torch import Tensor

from star_batch.demo.network import Drop
from star_batch.demo.scenes import GRID, NUM_PATCHES

BUDGETS = (16, 20, 26, 36, 48, 64, 90)
NUM_SAFE = 4


def draw_drop(owners: Tensor, rng: random.Random, share: float) -> Drop:
    """Before the decoder in a `share` of the batches, half-way through it in three of ten."""
    everything = torch.ones_like(owners, dtype=torch.bool)
    early = draw_keep(owners, rng) if rng.random() < share else everything
    if rng.random() >= 0.3:
        return Drop(early=early)
    late = early & draw_keep(owners.where(early, -1), rng)
    return Drop(early=early, late=late, late_layer=rng.randrange(2, 6))


def draw_own(owners: Tensor, attention: Tensor, rng: random.Random) -> Drop:
    """As a job would do it: early by the CLS row or by chance, then of these what each prompt reads most.

    In every fifth batch nothing is left late. So the upper layers learn to live on what the text has taken over.
    """
    budget = rng.choice((18, 27, 36, 54, 72, 108, NUM_PATCHES))
    early = _top(attention, budget) if rng.random() < 0.5 else draw_keep(owners, rng)
    layer, share = rng.choice((2, 3, 3, 3, 4, 5)), rng.choice((0.0, 1 / 6, 1 / 3, 1 / 3, 2 / 3))
    return Drop(early=early, late_share=share, late_layer=layer)


def draw_keep(owners: Tensor, rng: random.Random) -> Tensor:
    """Kept tokens `[B, N]` by one of four ways; `owners` is -1 on the background."""
    torch_rng = torch.Generator().manual_seed(rng.getrandbits(40))
    chance = torch.rand(owners.shape, generator=torch_rng)
    is_object = owners >= 0
    way = rng.choice(("random", "background first", "background first", "objects", "blocks"))
    if way == "objects":
        return is_object
    if way == "background first":
        chance = chance + is_object
    if way == "blocks":
        chance = 0.1 * chance + _draw_blocks(len(owners), rng.choice((2, 3, 4)), torch_rng)
    chance = chance + 9 * _safe(owners, torch_rng)
    return _top(chance, rng.choice(BUDGETS))


def _draw_blocks(num_rows: int, size: int, torch_rng: torch.Generator) -> Tensor:
    side = GRID // size
    blocks = torch.rand(num_rows, side, side, generator=torch_rng)
    return blocks.repeat_interleave(size, 1).repeat_interleave(size, 2).reshape(num_rows, NUM_PATCHES)


def _safe(owners: Tensor, torch_rng: torch.Generator) -> Tensor:
    """A few patches of each thing, drawn at random."""
    chance = torch.rand(owners.shape, generator=torch_rng)
    safe = torch.zeros_like(owners, dtype=torch.bool)
    for number in range(int(owners.max()) + 1):
        safe |= _top(chance.where(owners == number, -1.0), NUM_SAFE) & (owners == number)
    return safe


def _top(score: Tensor, num_keep: int) -> Tensor:
    kept = score.topk(num_keep, dim=1).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, kept, True)
