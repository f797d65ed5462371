"""Draws of tokens for many rows at once, on the device: pure tensors. Knows no sequence.

A number per row decides: a point on the row's cumulated probabilities (inversion). It is hashed from the row's seed and
the step, so a draw depends on nothing else, whatever the device and whoever is beside it; no noise of the vocabulary's
size is made, and nothing is sorted. A nucleus (arXiv 1904.09751) is drawn from by rejection: a token of the whole
vocabulary is taken if the tokens likelier than it hold less than `top_p`, which is what being in the nucleus means, and
drawn anew if not. At least `top_p` of the first draws are taken. Legend: `B` rows, `V` tokens.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = 512  # tokens that are added up first; a sum of few numbers is the same whatever else is computed
_CHUNK = 1 << 19  # numbers that stay in a processor's cache from one operation to the next
_ROUNDS = 12  # of rejection; rows that are left have a tiny `top_p`, and are sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """How a row is drawn: `temperature` and `top_p` above 0 (1.0: from all tokens), and what its points hang on."""

    temperature: float
    top_p: float
    seed: int
    step: int

    def point(self, round: int) -> float:
        """A number in [0, 1): 53 bits of a hash."""
        data = b"".join(value.to_bytes(12, "little", signed=True) for value in (self.seed, self.step, round))
        return (int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) >> 11) / 2**53


def draw(logits: Tensor, best: Tensor, chances: Mapping[int, Chance]) -> Tensor:
    """Tokens of the rows that `chances` names, in its order.

    Args:
        logits: float32 `[B, V]`, left as they are.
        best: their maxima, `[B]`.
        chances: of some rows, or of all.
    """
    places = list(chances)
    size = len(places) if logits.is_cuda else max(1, _CHUNK // logits.shape[1])
    drawn = []
    for start in range(0, len(places), size):
        rows = places[start : start + size]
        own = [chances[row] for row in rows]
        index = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] == len(rows) - 1 else rows  # a view is no copy
        drawn.append(_draw(_weights(logits[index], best[index], own), own))
    return torch.cat(drawn)


def _weights(logits: Tensor, best: Tensor, chances: Sequence[Chance]) -> Tensor:
    """Probabilities but for a factor, in blocks `[B, V / block, block]`: the likeliest token has 1."""
    sharpness = _column([1.0 / chance.temperature for chance in chances], logits)
    weights = (logits - best.unsqueeze(1)).mul_(sharpness).exp_()
    padding = -weights.shape[1] % _BLOCK
    blocks: Tensor = (F.pad(weights, (0, padding)) if padding else weights).unflatten(1, (-1, _BLOCK))
    return blocks


def _draw(weights: Tensor, chances: Sequence[Chance]) -> Tensor:
    ends = _ends(weights)
    tokens = _inverted(weights, ends, [chance.point(0) for chance in chances])
    left = [row for row, chance in enumerate(chances) if chance.top_p < 1.0]
    for round in range(1, _ROUNDS):
        left = _outside(left, weights, tokens, ends[:, -1], chances)
        if not left:
            return tokens
        tokens[left] = _inverted(weights[left], ends[left], [chances[row].point(round) for row in left])
    cut = nucleus(weights[left].flatten(1), [chances[row].top_p for row in left]).unflatten(1, (-1, _BLOCK))
    tokens[left] = _inverted(cut, _ends(cut), [chances[row].point(_ROUNDS) for row in left])
    return tokens


def _ends(weights: Tensor) -> Tensor:
    """Cumulated sums `[B, V / block]` at the end of each block."""
    return weights.sum(dim=-1).cumsum(dim=-1, dtype=torch.float64)


def _outside(rows: list[int], weights: Tensor, tokens: Tensor, totals: Tensor, chances: Sequence[Chance]) -> list[int]:
    """Those of the rows whose tokens are not in their nucleus."""
    if not rows:
        return rows
    own = weights if len(rows) == len(weights) else weights[rows]  # mostly all of them, and no copy then
    is_inside = is_in_nucleus(own, tokens[rows], totals[rows], [chances[row].top_p for row in rows])
    return [row for row, is_taken in zip(rows, is_inside.tolist(), strict=True) if not is_taken]


def is_in_nucleus(weights: Tensor, tokens: Tensor, totals: Tensor, top_ps: Sequence[float]) -> Tensor:
    """Whether the tokens `[B]` belong to the smallest set of the likeliest that holds `top_p`: bool `[B]`.

    Tokens as likely as the last one of the set belong to it, too. `weights [B, V / block, block]` add up to `totals`.
    """
    own = weights.flatten(1).gather(1, tokens.unsqueeze(1)).unsqueeze(2)
    above = (weights * (weights > own)).sum(dim=-1).sum(dim=-1, dtype=torch.float64)
    is_inside: Tensor = above < _column(top_ps, totals).squeeze(1) * totals
    return is_inside


def nucleus(weights: Tensor, top_ps: Sequence[float]) -> Tensor:
    """Weights `[B, V]` with zero outside the nucleus, by sorting them."""
    ordered = weights.sort(dim=-1, descending=True).values.double()
    is_outside = ordered.cumsum(dim=-1) - ordered >= _column(top_ps, ordered) * ordered.sum(dim=-1, keepdim=True)
    least = ordered.masked_fill(is_outside, torch.inf).amin(dim=-1, keepdim=True)
    return weights.masked_fill(weights < least, 0.0)


def _inverted(weights: Tensor, ends: Tensor, points: Sequence[float]) -> Tensor:
    """The tokens `[B]` at which the cumulated sum passes the points: the block first, by its end, then the token."""
    target = _column(points, ends) * ends[:, -1:]
    block = _first_above(ends, target)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = weights.take_along_dim(block.unsqueeze(-1), 1).squeeze(1)
    place = _first_above(inside.cumsum(dim=-1, dtype=torch.float64), target - before)
    # Rounding may pass the end of the block: then it is the last token in it that can be drawn.
    last = torch.where(inside > 0, torch.arange(_BLOCK, device=inside.device), 0).amax(dim=-1, keepdim=True)
    return (block * _BLOCK + torch.minimum(place, last)).squeeze(1)


def _first_above(rising: Tensor, target: Tensor) -> Tensor:
    """Place `[B, 1]` of the first number above the target, at most the last."""
    return torch.searchsorted(rising, target, right=True).clamp(max=rising.shape[1] - 1)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(1)
