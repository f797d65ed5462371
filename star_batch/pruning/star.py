"""STAR (arXiv 2505.12359): an early cut by visual self-attention, a late cut by text-to-image attention.

Knows no model and no batch. What the paper leaves open is decided here, and is ours:

- Both formulas, read literally, give every token the same score (each softmax row sums to 1, and the
  mean is taken along it). We score the attention that a token *receives*: the mean over heads and queries.
- The early scores are the attention of the encoder block that outputs the features (the CLS row where
  the encoder has a CLS token), or with `early_scores="features"` the formula on the features themselves.
- The late scores are the decoder's own attention, after RoPE and under the causal mask, with the softmax
  over every key that a text row sees; the text rows are those of the prompt after the image.
- The late cut holds from layer K on and is scored by the attention of layer K - 1, so no layer computes
  tokens that it then throws away. By default K is half the depth.
- `late_scores="max"` takes the largest attention over heads and text rows in place of their mean. Long answers about
  many objects gain by it where the mean starves some of them; it is not the paper's.
- The budget is the mean over layers: a third as many tokens late as early, unless one of them is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

from star_batch.errors import ConfigError
from star_batch.options import check_amount, one_of, require
from star_batch.pruning import scores
from star_batch.pruning.base import Pruning
from star_batch.pruning.plan import LateStep, PruningPlan, VisualTokens, resolve
from star_batch.pruning.stages import Stages, at_depth, check_layer

if TYPE_CHECKING:  # options are checked where torch is not
    from torch import Tensor

EarlyScores = Literal["encoder", "features"]
LateScores = Literal["mean", "max"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StarPruning(Pruning):
    """`early_keep` tokens go in, `late_keep` go on from layer `late_layer`; what is not given follows from `keep`.

    `late_layer`: a layer's number, or a share of the depth. `early_scores`: by the vision encoder's own attention, or
    by self-attention computed from its features. `late_scores`: over the heads and text rows.
    """

    method: Literal["star"] = "star"
    early_keep: int | float | None = None
    late_keep: int | float | None = None
    late_layer: int | float | None = None
    early_scores: EarlyScores = "encoder"
    late_scores: LateScores = "mean"

    def check(self) -> None:
        one_of("early_scores", self.early_scores, get_args(EarlyScores))
        one_of("late_scores", self.late_scores, get_args(LateScores))
        for name in ("early_keep", "late_keep"):
            check_amount(name, getattr(self, name))
        check_layer("late_layer", self.late_layer)

    def check_budget(self) -> None:
        num_stages = (self.early_keep is not None) + (self.late_keep is not None)
        if self.keep_mass is not None:
            require(not num_stages, "keep_mass sets both stages: leave out early_keep and late_keep")
        if num_stages == 2:
            require(self.keep is None, "keep, early_keep and late_keep: give two of them, the third follows")
        else:
            Pruning.check_budget(self)  # a class with slots is made twice, which super() does not see

    def plan(self, num_layers: int) -> PruningPlan:
        """Two cuts.

        Raises:
            ConfigError: the late layer does not exist.
        """
        layer = at_depth(self.late_layer if self.late_layer is not None else num_layers // 2, num_layers)
        return self.planned(
            num_layers,
            schedule=partial(_early_and_late, self, num_layers, layer),
            early=_EARLY[self.early_scores],
            late=(LateStep(layer=layer, select=_LATE[self.late_scores]),),
        )

    def check_plan(self, plan: PruningPlan, num_visual: int) -> None:
        late = self.late_keep
        if late is not None and resolve(late, num_visual) > (early := plan.counts(num_visual)[0]):
            raise ConfigError(f"early_keep={early} and late_keep={late}: the late stage keeps some of the early tokens")
        Pruning.check_plan(self, plan, num_visual)

    @property
    def because(self) -> str:
        given = {name: getattr(self, name) for name in ("early_keep", "late_keep", "late_layer")}
        parts = [f"{name}={value}" for name, value in given.items() if value is not None]
        return f" with {', '.join(parts)}" if parts else ""


def select_early(attention: Tensor, num_keep: int) -> Tensor:
    """The tokens that receive the most visual self-attention.

    Args:
        attention: `[..., H, Q, N]` that the visual keys receive; Q = 1 for a CLS row.
        num_keep: how many to keep, at most N.

    Returns:
        Sorted unique int64 indices `[..., num_keep]`.
    """
    return scores.top(scores.received(attention), num_keep)


def select_late(attention: Tensor, num_keep: int) -> Tensor:
    """The visual tokens that the text attends to most.

    Args:
        attention: the text rows' attention on the visual columns, `[H, T, N]`.
        num_keep: how many to keep, at most N.

    Returns:
        Sorted unique int64 indices `[num_keep]`.
    """
    return scores.top(scores.received(attention), num_keep)


def select_late_by_peak(attention: Tensor, num_keep: int) -> Tensor:
    """The visual tokens on which some head of some text row looks most, as in `select_late`."""
    return scores.top(attention.double().amax(dim=(-3, -2)), num_keep)


def _by_encoder(tokens: VisualTokens, num_keep: int) -> Tensor:
    return select_early(tokens.attention, num_keep)


def _by_features(tokens: VisualTokens, num_keep: int) -> Tensor:
    return select_early(scores.self_attention(tokens.features), num_keep)


_EARLY = {"encoder": _by_encoder, "features": _by_features}
_LATE = {"mean": select_late, "max": select_late_by_peak}


def _early_and_late(
    pruning: StarPruning, num_layers: int, layer: int, keep: int | float | None, num_visual: int
) -> tuple[int, int]:
    """Counts before and from `layer`, so that their mean over the layers is `keep` where the image allows."""
    early = _given(pruning.early_keep, num_visual)
    late = _given(pruning.late_keep, num_visual)
    if early is None and late is None:
        early, late = Stages((layer, num_layers - layer), (1.0, 1 / 3))(keep, num_visual)
    if keep is not None:
        total = num_layers * resolve(keep, num_visual)
        before, after = layer, num_layers - layer
        if early is None:
            assert late is not None
            early = _clamp((total - after * late) / before, num_visual)
        if late is None:
            late = _clamp((total - before * early) / after, early)
    assert early is not None
    assert late is not None, "two of the three are given"
    return early, min(late, early)


def _given(amount: int | float | None, num_visual: int) -> int | None:
    return None if amount is None else resolve(amount, num_visual)


def _clamp(count: float, most: int) -> int:
    """Halves go up, so that 1.5 x keep never falls below its share."""
    return max(1, min(int(count + 0.5), most))
