"""Scores of visual tokens and the picking of the best: what every method shares. Knows no method.

Everything is computed in float64: a selection may amplify rounding (VisPruner does), and must not
depend on the precision of the device it runs on.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # options are checked where torch is not
    import torch
    from torch import Tensor


def received(attention: Tensor) -> Tensor:
    """Attention that each token receives, `[..., H, Q, N] -> [..., N]`: mean over heads and queries."""
    return attention.double().mean(dim=(-3, -2))


def self_attention(features: Tensor) -> Tensor:
    """`softmax(F F^T / sqrt(D))` of features `[..., N, D]` as one head, `[..., 1, N, N]`.

    The self-attention formula of STAR (arXiv 2505.12359) on the embeddings themselves, without projections.
    """
    features = features.double()
    logits: Tensor = features @ features.mT / features.shape[-1] ** 0.5
    return logits.softmax(dim=-1).unsqueeze(-3)


def cosines(features: Tensor) -> Tensor:
    """Cosine similarities `[..., N, D] -> [..., N, N]` in float64; a zero vector is similar to nothing."""
    features = features.double()
    unit = features / features.norm(dim=-1, keepdim=True).clamp_min(sys.float_info.min)
    cosine: Tensor = unit @ unit.mT
    return cosine


def pivots(gram: Tensor, num_keep: int) -> Tensor:
    """The first pivots of a Cholesky factorisation of `gram [..., N, N]`: sorted int64 indices `[..., num_keep]`.

    Each next token is the one of which the chosen ones explain least. On `X X^T` these are the columns that a pivoted
    QR of the features `X` takes (STAR-Pro); on the kernel of a determinantal point process they are its greedy maximum
    (Chen et al., arXiv 1709.05135, as CDPruner uses it). Where nothing is left to explain, the earlier token comes
    first. The chosen rows are kept as factors, so a step costs `N` times the steps before it.
    """
    import torch

    gram = gram.double()
    left = gram.diagonal(dim1=-2, dim2=-1).clone()
    floor = left.amax(-1, keepdim=True).clamp_min(sys.float_info.min) * 1e-12
    factors = left.new_zeros(*left.shape, num_keep)
    chosen = torch.zeros(*left.shape[:-1], num_keep, dtype=torch.int64, device=gram.device)
    for step in range(num_keep):
        # Rounding leaves dust where nothing is left: a tie, and no ground for a choice.
        best = left.where((left > floor) | left.isneginf(), 0.0).argmax(-1, keepdim=True)
        chosen[..., step : step + 1] = best
        place, pivot = best.unsqueeze(-1), left.gather(-1, best)
        row = gram.take_along_dim(place, -2).squeeze(-2)
        known = factors.take_along_dim(place, -2)
        factor = (row - (factors @ known.mT).squeeze(-1)) / pivot.clamp_min(floor).sqrt() * (pivot > floor)
        factors[..., step] = factor
        left = (left - factor.square()).scatter(-1, best, -torch.inf)
    return chosen.sort(dim=-1).values


def ranked(scores: Tensor) -> Tensor:
    """Token indices `[..., N]` by falling score; among equals the earlier token comes first."""
    return scores.argsort(dim=-1, descending=True, stable=True)


def top(scores: Tensor, num_keep: int) -> Tensor:
    """The `num_keep` best of scores `[..., N]`, as sorted int64 indices `[..., num_keep]`."""
    return ranked(scores)[..., :num_keep].sort(dim=-1).values


def num_for_mass(scores: Tensor, mass: float) -> int:
    """The fewest of scores `[N]`, best first, that add up to a share `mass` of their sum."""
    shares = scores.sort(descending=True).values.cumsum(dim=0) / scores.sum()
    return min(int((shares < mass).sum()) + 1, len(scores))


def everything(num_tokens: int, device: torch.device) -> Tensor:
    """Indices of all tokens, `[N]`."""
    import torch

    return torch.arange(num_tokens, device=device)
