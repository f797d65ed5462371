"""What the model is trained on: the answers, and helpers that make pictures speak the words' language.

The helpers are dropped after training. This module does not know how steps are scheduled.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from star_batch.demo.blueprint import vocabulary
from star_batch.demo.packing import IGNORED, Packed
from star_batch.demo.questions import NUMBERS
from star_batch.demo.scenes import CELLS, COLOURS, SHAPES, Scene

CELL_WORDS = tuple(dict.fromkeys(" ".join(CELLS).split()))


class Helpers(nn.Module):
    """Heads that exist in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.presence = nn.Linear(width, len(COLOURS) + len(SHAPES) + len(CELLS))
        self.scale = nn.Parameter(torch.ones(3))
        self.offset = nn.Parameter(torch.zeros(len(CELL_WORDS)))


def answer_loss(logits: Tensor, packed: Packed, power: float = 0.0) -> Tensor:
    """Cross entropy in which an answer of n tokens weighs n to the `power`: by default all the same."""
    is_answer = packed.target != IGNORED
    row = torch.arange(len(packed.owner))[:, None] * (int(packed.owner.max()) + 1)
    pair = (row + packed.owner)[is_answer]
    count = torch.bincount(pair)
    loss = F.cross_entropy(logits.float(), packed.target[is_answer], reduction="none")
    return (loss * count[pair] ** (power - 1.0)).sum() / (count > 0).sum()


def word_losses(
    helpers: Helpers, features: Tensor, words: Tensor, owners: Tensor, scenes: Sequence[Scene]
) -> dict[str, Tensor]:
    """Projected patches `[B, N, D]` must score the words of what they show by their dot product."""
    unit = F.normalize(features.float(), dim=-1)
    colour = _score(unit, words, (*COLOURS, "nothing"), 12 * helpers.scale[0])
    shape = _score(unit, words, (*SHAPES, "nothing"), 12 * helpers.scale[1])
    place = _score(unit, words, CELL_WORDS, 8 * helpers.scale[2]) + helpers.offset
    return {
        "colours": _patch_loss(colour, patch_labels(owners, scenes, "colour"), owners),
        "shapes": _patch_loss(shape, patch_labels(owners, scenes, "shape"), owners),
        "places": F.binary_cross_entropy_with_logits(place, cell_word_table().expand_as(place)),
    }


def number_loss(features: Tensor, words: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Every patch must score the word for how many things there are: counts survive lost tokens."""
    scores = _score(F.normalize(features.float(), dim=-1), words, NUMBERS[1:], torch.tensor(12.0))
    counts = torch.tensor([len(scene.things) - 1 for scene in scenes])
    return F.cross_entropy(scores.transpose(1, 2), counts[:, None].expand(scores.shape[:2]))


def _patch_loss(scores: Tensor, labels: Tensor, owners: Tensor) -> Tensor:
    """Background outnumbers objects four to one: the mean over each by itself keeps the objects in view."""
    loss = F.cross_entropy(scores.transpose(1, 2), labels, reduction="none")
    return 0.8 * loss[owners >= 0].mean() + 0.2 * loss[owners < 0].mean()


def _score(unit: Tensor, words: Tensor, names: Sequence[str], scale: Tensor) -> Tensor:
    index = vocabulary()
    return scale * unit @ F.normalize(words[[index[name] for name in names]], dim=-1).T


def patch_labels(owners: Tensor, scenes: Sequence[Scene], attribute: str) -> Tensor:
    """Number of the colour or shape each patch shows; background has the number after the last."""
    names: tuple[str, ...] = COLOURS if attribute == "colour" else SHAPES
    table = torch.full((len(scenes), 5), len(names))
    for row, scene in zip(table, scenes, strict=True):
        row[: len(scene.things)] = torch.tensor([names.index(getattr(thing, attribute)) for thing in scene.things])
    return table.gather(1, owners % 5)  # -1, the background, reads the last column


def cell_word_table() -> Tensor:
    """Which words name the cell of each patch, `[N, words]`."""
    cells = torch.tensor([[word in cell.split() for word in CELL_WORDS] for cell in CELLS]).float()
    return cells.reshape(3, 3, -1).repeat_interleave(4, 0).repeat_interleave(4, 1).reshape(144, -1)


def presence_loss(helpers: Helpers, cls: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """The CLS token must know which colours, shapes and cells are present, so it has to look at objects."""
    names = (*COLOURS, *SHAPES, *CELLS)
    present = [
        {word for thing in scene.things for word in (thing.colour, thing.shape, thing.place)} for scene in scenes
    ]
    target = torch.tensor([[name in words for name in names] for words in present]).float()
    return F.binary_cross_entropy_with_logits(helpers.presence(cls.float()), target)


def attention_loss(attention: Tensor, owners: Tensor) -> Tensor:
    """The CLS row `[B, N]` must fall on the things, on each of them as much as on the others."""
    things = torch.arange(int(owners.max()) + 1)
    share = (attention[:, None] * (owners[:, None] == things[:, None])).sum(2)
    is_there = (owners[:, None] == things[:, None]).any(2)
    loss = -(share + 1e-6).log() * is_there / is_there.sum(1, keepdim=True)
    return loss.sum(1).mean()
