"""CDPruner (arXiv 2506.10967): relevance to the question times diversity, as a determinantal point process.

Knows no model. The kernel is `L = diag(r) S diag(r)` (eq. 7), with `S` the cosines between tokens and `r` the tokens'
relevance, scaled to 0..1 within the image; its greedy maximum is kept.

The paper takes `r` from CLIP's text tower, which checkpoints of vision-language models do not hold. **Its place is
taken by the language model's own word embeddings**: `r` is the mean cosine of a projected token to the words of the
prompt after the image. So the figures of the paper say nothing about this variant. In the public code the sign of
CLIP's similarity is turned round, and the least and largest relevance are taken over the whole batch; here neither.
`S` is taken between the encoder's features, before the projector. Each question to an image has tokens of its own, so
rows that ask about one image share nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from star_batch.pruning import scores
from star_batch.pruning.base import Pruning
from star_batch.pruning.plan import PruningPlan, VisualTokens

if TYPE_CHECKING:  # options are checked where torch is not
    from torch import Tensor

_LEAST = 1e-6  # the authors': a token without any relevance still has a place in the order


@dataclass(frozen=True, slots=True, kw_only=True)
class CDPruner(Pruning):
    """One early cut that reads the question; every layer sees the same."""

    method: Literal["cdpruner"] = "cdpruner"

    def plan(self, num_layers: int) -> PruningPlan:
        return self.planned(num_layers, early=_early, reads_prompt=True)


def select_relevant(features: Tensor, relevance: Tensor, num_keep: int) -> Tensor:
    """The greedy maximum of a determinantal point process over tokens.

    Args:
        features: `[..., N, D]`, whose cosines say how alike two tokens are.
        relevance: `[..., N]` to the question; larger is more relevant.
        num_keep: how many to keep, at most N.

    Returns:
        Sorted unique int64 indices `[..., num_keep]`.
    """
    relevance = relevance.double()
    least, most = relevance.amin(-1, keepdim=True), relevance.amax(-1, keepdim=True)
    scaled = (relevance - least + _LEAST) / (most - least + _LEAST)
    kernel = scaled.unsqueeze(-1) * scores.cosines(features) * scaled.unsqueeze(-2)
    return scores.pivots(kernel, num_keep)


def _early(tokens: VisualTokens, num_keep: int) -> Tensor:
    assert tokens.relevance is not None, "the plan reads the prompt"
    return select_relevant(tokens.features, tokens.relevance, num_keep)
