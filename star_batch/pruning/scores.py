"""Scores of visual tokens and the picking of the best: what every method shares. Knows no method.

Everything is computed in float64: a selection may amplify rounding (VisPruner does), and must not
depend on the precision of the device it runs on.
"""

from __future__ import annotations

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
