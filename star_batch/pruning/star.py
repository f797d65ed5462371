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
- The budget is the mean over layers: a third as many tokens late as early, unless one of them is given.
"""

from functools import partial

from torch import Tensor

from star_batch.options import Pruning
from star_batch.pruning import scores
from star_batch.pruning.plan import LateStep, PruningPlan, VisualTokens, budget_of, check_late_layer, resolve


def select_early(attention: Tensor, num_keep: int) -> Tensor:
    """The tokens that receive the most visual self-attention.

    Args:
        attention: `[..., H, Q, N]`, softmaxed over the visual keys; Q = 1 for a CLS row.
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


def plan(pruning: Pruning, num_layers: int) -> PruningPlan:
    """STAR's two cuts for a decoder of `num_layers` layers.

    Raises:
        ConfigError: the late layer does not exist.
    """
    layer = pruning.late_layer if pruning.late_layer is not None else num_layers // 2
    check_late_layer(layer, num_layers)
    return PruningPlan(
        num_layers=num_layers,
        schedule=partial(_early_and_late, pruning, num_layers, layer),
        keep=pruning.keep,
        budget=budget_of(pruning),
        early=_EARLY[pruning.early_scores],
        late=(LateStep(layer=layer, select=select_late),),
        positions=pruning.positions,
    )


def _by_encoder(tokens: VisualTokens, num_keep: int) -> Tensor:
    return select_early(tokens.attention, num_keep)


def _by_features(tokens: VisualTokens, num_keep: int) -> Tensor:
    return select_early(scores.self_attention(tokens.features), num_keep)


_EARLY = {"encoder": _by_encoder, "features": _by_features}


def _early_and_late(
    pruning: Pruning, num_layers: int, layer: int, keep: int | float | None, num_visual: int
) -> tuple[int, int]:
    """Counts before and from `layer`, so that their mean over the layers is `keep` where the image allows."""
    early = _given(pruning.early_keep, num_visual)
    late = _given(pruning.late_keep, num_visual)
    if keep is not None:
        total = num_layers * resolve(keep, num_visual)
        before, after = layer, num_layers - layer
        if early is None:
            early = _clamp(_share(total, before, after, late), num_visual)
        if late is None:
            late = _clamp((total - before * early) / after, early)
    assert early is not None
    assert late is not None, "two of the three are given"
    return early, min(late, early)


def _given(amount: int | float | None, num_visual: int) -> int | None:
    return None if amount is None else resolve(amount, num_visual)


def _share(total: int, before: int, after: int, late: int | None) -> float:
    """The early count: what `late` leaves of the total, or three times the late count where both are free."""
    if late is not None:
        return (total - after * late) / before
    return total / (before + after / 3)


def _clamp(count: float, most: int) -> int:
    """Halves go up, so that 1.5 x keep never falls below its share."""
    return max(1, min(int(count + 0.5), most))
