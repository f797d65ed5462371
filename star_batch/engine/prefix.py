"""What prompts have in common before their first image, run through the model once. Knows no scheduler and no pruning.

Keys and values of a token depend on nothing but the tokens up to it. So those of a system prompt are the same in
every row that begins with it: they are kept here, and a prefill copies them to each row's own pages.
"""

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import torch
from torch import Tensor

from star_batch.engine.causal import choose_causal
from star_batch.models import VisionLanguageModel

_LEAST = 8  # fewer tokens save less than copying them costs
_MOST = 1024
_NUM_KEPT = 2  # a job has one, or one more where its rows begin in two ways

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """The first tokens of several rows, and their keys and values `[H_kv, P, d]` for every layer."""

    token_ids: TokenIds
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def length(self) -> int:
        return len(self.token_ids)

    def first(self, length: int) -> "Prefix":
        """Its first tokens alone."""
        if length == self.length:
            return self
        keys, values = (tuple(x[:, :length] for x in pools) for pools in (self.keys, self.values))
        return Prefix(self.token_ids[:length], keys, values)

    def before(self, layer: int, key: Tensor, value: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values with the prefix before those of each row, which `order` says how to pick."""
        keys, values = torch.cat([self.keys[layer], key], dim=1), torch.cat([self.values[layer], value], dim=1)
        return keys.index_select(1, order), values.index_select(1, order)


class Prefixes:
    """The prefixes that were used last."""

    def __init__(self, model: VisionLanguageModel) -> None:
        self._model = model
        self._recent: deque[Prefix] = deque(maxlen=_NUM_KEPT)

    def shared_by(self, beginnings: Seq[TokenIds]) -> Prefix | None:
        """What rows with these tokens before their first image have in common; None where that is too little.

        What is known is taken even if it is shorter, unless running all of it costs less than what the rows save.
        """
        common = _common(beginnings)[:_MOST]
        if len(common) < _LEAST:
            return None
        best = max(self._recent, key=lambda prefix: _overlap(prefix, common), default=None)
        covered = 0 if best is None else _overlap(best, common)
        if best is None or len(beginnings) * (len(common) - covered) > len(common):
            if len(beginnings) == 1:
                return None
            best, covered = self._run(common), len(common)
        self._keep(best)
        return best.first(covered) if covered >= _LEAST else None

    def _keep(self, prefix: Prefix) -> None:
        """As the one that was used last; what it begins with is not kept beside it."""
        others = [other for other in self._recent if _overlap(other, prefix.token_ids) < other.length]
        self._recent.clear()
        self._recent.extend([*others, prefix])

    def _run(self, token_ids: TokenIds) -> Prefix:
        model, count = self._model, len(token_ids)
        device = model.device
        batch = _Recorder(count, device, model.dtype)
        hidden = model.embed(torch.tensor(token_ids, device=device))
        rotary = model.rotary(torch.arange(count, device=device).unsqueeze(0))
        for layer in range(model.num_layers):
            hidden = model.attend(layer, hidden, rotary, batch=batch)
            hidden = model.feed_forward(layer, hidden)
        return Prefix(token_ids, tuple(batch.keys), tuple(batch.values))


@dataclass(slots=True)
class _Recorder:
    """Causal attention of one text that keeps keys and values."""

    length: int
    device: torch.device
    dtype: torch.dtype
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        self.keys.append(key.contiguous())
        self.values.append(value.contiguous())
        return choose_causal([self.length], self.device, self.dtype)(query, key, value, scaling)


def _overlap(prefix: Prefix, token_ids: TokenIds) -> int:
    return len(_common([prefix.token_ids, token_ids]))


def _common(texts: Seq[TokenIds]) -> TokenIds:
    first, last = min(texts), max(texts)  # in order, so that all between begin alike
    same = (index for index, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1])
    return first[: next(same, len(first))]
