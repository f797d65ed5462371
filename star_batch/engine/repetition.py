"""The penalty on tokens that a row has seen: those of its prompt, its image's among them, and of its answer so far.

As the library's own `generate` has it: logits of such tokens are divided by the penalty where they are positive, else
multiplied. Knows no model; rows without a penalty are not looked at. Legend: `R` rows, `S` tokens that one may see.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from itertools import chain, count
from typing import NamedTuple

import torch
from torch import Tensor

from star_batch.engine.sequence import Sequence
from star_batch.engine.upload import upload


class _Place(NamedTuple):
    """The table's row of a sequence, and how many of its columns the prompt takes."""

    row: int
    num_prompt: int


class Repetition:
    """A table of the tokens that rows have seen, on the device: a step tells it one more of each row."""

    def __init__(self, image_id: int) -> None:
        self._image_id = image_id
        self._places: dict[Sequence, _Place] = {}
        self._table = torch.zeros(0, 0, dtype=torch.int64)

    def penalise(self, logits: Tensor, sequences: Seq[Sequence]) -> None:
        """Changes float32 logits `[B, V]` in place, for rows that have a penalty. Choices have none."""
        for penalty, indices in _by_penalty(sequences).items():
            self._penalise(logits, [sequences[index] for index in indices], indices, penalty)

    def _penalise(self, logits: Tensor, sequences: Seq[Sequence], indices: list[int], penalty: float) -> None:
        if fresh := [sequence for sequence in sequences if sequence not in self._places]:
            self._admit(fresh, logits.device)
        rows, places = upload(torch.tensor([indices, self._note_latest(sequences)]), logits.device)
        seen = self._table[:, : self._num_used(sequences)][places]
        scores = logits[rows.unsqueeze(1), seen]
        # The same token may stand in several columns: they all write the same number.
        logits[rows.unsqueeze(1), seen] = torch.where(scores < 0, scores * penalty, scores / penalty)

    def _num_used(self, sequences: Seq[Sequence]) -> int:
        return max(self._places[sequence].num_prompt + len(sequence.output) for sequence in sequences)

    def _note_latest(self, sequences: Seq[Sequence]) -> list[int]:
        """Take in each row's latest token. Returns: their rows of the table."""
        places = [self._places[sequence] for sequence in sequences]
        rows = [place.row for place in places]
        latest = [
            (place.row, place.num_prompt + len(sequence.output) - 1, sequence.output[-1])
            for place, sequence in zip(places, sequences, strict=True)
            if sequence.output
        ]
        if latest:
            row, column, token = upload(torch.tensor(latest).T.contiguous(), self._table.device)
            self._table[row, column] = token
        return rows

    def _admit(self, sequences: Seq[Sequence], device: torch.device) -> None:
        """Rows of the table for new sequences; those of finished ones are free again."""
        self._places = {old: place for old, place in self._places.items() if not old.is_finished}
        taken = {place.row for place in self._places.values()}
        free = (row for row in count() if row not in taken)
        prompts = [self._prompt_ids(sequence) for sequence in sequences]
        for sequence, ids in zip(sequences, prompts, strict=True):
            self._places[sequence] = _Place(next(free), len(ids))
        widths = [len(ids) + s.sampling.max_new_tokens for ids, s in zip(prompts, sequences, strict=True)]
        self._make_room(1 + max(place.row for place in self._places.values()), max(widths), device)
        width = self._table.shape[1]
        # Columns that are not used yet repeat the prompt's first token.
        filled = torch.tensor([[*ids, *[ids[0]] * (width - len(ids))] for ids in prompts])
        rows = torch.tensor([self._places[sequence].row for sequence in sequences])
        self._table[upload(rows, device)] = upload(filled, device)

    def _prompt_ids(self, sequence: Sequence) -> list[int]:
        images = [self._image_id] if sequence.images else []
        return sorted({*chain.from_iterable(sequence.prompt.texts), *images})

    def _make_room(self, num_rows: int, width: int, device: torch.device) -> None:
        old = self._table
        if num_rows <= old.shape[0] and width <= old.shape[1]:
            return
        shape = max(2 * old.shape[0], num_rows), max(old.shape[1], width)
        self._table = torch.zeros(shape, dtype=torch.int64, device=device)
        if old.numel():
            self._table[: old.shape[0]] = old[:, :1]  # new columns repeat the first
            self._table[: old.shape[0], : old.shape[1]] = old


def _by_penalty(sequences: Seq[Sequence]) -> Mapping[float, list[int]]:
    """Places of the rows that have one, by penalty: mostly all of them, or none."""
    found: dict[float, list[int]] = {}
    for index, sequence in enumerate(sequences):
        penalty = sequence.sampling.repetition_penalty
        if penalty != 1.0 and sequence.search is None:
            found.setdefault(penalty, []).append(index)
    return found
