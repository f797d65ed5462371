"""How long rows are before and after pruning, and how many of them fit into memory. Knows no clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from star_batch.bench.roofline import Cost, Job, kv_bytes_per_row
from star_batch.pruning import PruningPlan
from star_batch.records import Answer


class Spread(NamedTuple):
    """Of some numbers of tokens."""

    mean: float
    least: int
    most: int

    @classmethod
    def of(cls, numbers: Sequence[int]) -> "Spread":
        return cls(fmean(numbers), min(numbers), max(numbers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of a row: visual ones `offered` by its image and `kept` in each of the layer `groups`, and its texts.

    `is_answer_known`: the answers' lengths were seen, and are not just the longest that is allowed.
    """

    offered: float
    kept: tuple[float, ...]
    groups: tuple[range, ...]
    prompt: Spread
    answer: Spread
    is_answer_known: bool

    @classmethod
    def seen(cls, answers: Sequence[Answer], plan: PruningPlan) -> "Lengths":
        """As an engine has counted them."""
        kept = zip(*(answer.num_kept or () for answer in answers), strict=True)
        return cls(
            offered=fmean(answer.num_visual or 0 for answer in answers),
            kept=tuple(map(fmean, kept)),
            groups=plan.layer_groups,
            prompt=Spread.of([answer.num_prompt or 0 for answer in answers]),
            answer=Spread.of([answer.num_output or 0 for answer in answers]),
            is_answer_known=True,
        )

    @property
    def layer_mean(self) -> float:
        """Visual tokens that a layer sees."""
        return fmean(self._per_layer)

    @property
    def _per_layer(self) -> list[float]:
        return [kept for group, kept in zip(self.groups, self.kept, strict=True) for _ in group]

    def job(self, *, rows: int, answer_tokens: float, itemsize: int, kv_itemsize: int) -> Job:
        """Rows of the mean length, for the roofline."""
        text = self.prompt.mean
        return Job(
            tokens_per_layer=[[round(text + visual) for visual in self._per_layer]],
            kept=round(self.kept[0]),
            answer_tokens=max(1, round(answer_tokens)),
            rows=rows,
            itemsize=itemsize,
            kv_itemsize=kv_itemsize,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of the weights and of one row's keys and values, and how many rows fit; `slots` is the engine's limit."""

    weights: float
    row: float
    room: float
    slots: int

    @property
    def rows_that_fit(self) -> int:
        return max(0, int(self.room / self.row))

    @property
    def rows(self) -> int:
        """That are answered together."""
        return max(1, min(self.slots, self.rows_that_fit))


def row_bytes(cost: Cost, lengths: Lengths, *, max_new_tokens: int, kv_itemsize: int) -> float:
    """What a row reserves: room for the longest answer."""
    job = lengths.job(rows=1, answer_tokens=max_new_tokens, itemsize=kv_itemsize, kv_itemsize=kv_itemsize)
    return kv_bytes_per_row(cost, job)


def num_parameters(cost: Cost) -> int:
    """Of all matrices: the tower as far as it is needed, the projector, the decoder, the vocabulary in and out."""
    width = cost.vision_width
    tower = cost.vision_layers * (4 * width**2 + 2 * width * cost.vision_mlp) + cost.patch_values * width
    return tower + cost.projector_parameters + cost.linear_parameters + cost.vocabulary * cost.width
