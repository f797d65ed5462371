"""From logits to the next token of each sequence. Knows no batch: a row's token depends on that row alone."""

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from star_batch.engine.choices import ChoiceSearch
from star_batch.engine.draws import Chance, draw
from star_batch.engine.sequence import Sequence
from star_batch.errors import NotFinite

_NONE = -1  # instead of a token's id


def next_tokens(logits: Tensor, sequences: Seq[Sequence], stop_ids: frozenset[int]) -> list[int]:
    """One token id per sequence from float32 logits `[B, V]`; a row without finite logits gets an error.

    A row with choices has them weighed instead, on the host, and its token says nothing. All others are chosen on the
    device, together: by one argmax, or by draws. The device is waited for once, once more if there are choices, and
    for rows with a `top_p` until all are drawn. Logits that may not be chosen yet are changed in place.
    """
    if early := _too_early(sequences, stop_ids):
        logits[torch.tensor(early, device=logits.device).unbind(1)] = -torch.inf
    best, indices = logits.max(dim=-1)
    if chances := {row: _chance(sequence) for row, sequence in enumerate(sequences) if _is_drawn(sequence)}:
        indices[list(chances)] = draw(logits, best, chances)
    tokens: list[int] = torch.where(best.isfinite(), indices, _NONE).tolist()
    for sequence, token in zip(sequences, tokens, strict=True):
        if token == _NONE:
            sequence.error = NotFinite("the model put out numbers that are not finite for this row")
    _weigh_choices(logits, sequences, stop_ids)
    return tokens


def _is_drawn(sequence: Sequence) -> bool:
    return sequence.sampling.temperature > 0.0 and sequence.search is None


def _chance(sequence: Sequence) -> Chance:
    """A draw is a function of the job's seed, the record's id and the step."""
    parameters = sequence.sampling
    return Chance(
        temperature=parameters.temperature,
        top_p=parameters.top_p,
        seed=sequence.seed ^ parameters.seed,
        step=len(sequence.output),
    )


def _too_early(sequences: Seq[Sequence], stop_ids: frozenset[int]) -> list[tuple[int, int]]:
    """Rows, and tokens that may not end their answers yet."""
    return [
        (row, stop)
        for row, sequence in enumerate(sequences)
        if len(sequence.output) < sequence.sampling.min_new_tokens and sequence.search is None
        for stop in stop_ids | sequence.sampling.stop_ids
    ]


def _weigh_choices(logits: Tensor, sequences: Seq[Sequence], stop_ids: frozenset[int]) -> None:
    """Looked at row by row, on the host."""
    rows = [row for row, sequence in enumerate(sequences) if sequence.search is not None and not sequence.error]
    for row, own in zip(rows, logits[rows].cpu() if rows else (), strict=True):
        search = sequences[row].search
        assert search is not None
        _weigh(own, sequences[row], search, stop_ids)


def _weigh(logits: Tensor, sequence: Sequence, search: ChoiceSearch, stop_ids: frozenset[int]) -> None:
    """Shares among the tokens that lead on to a choice, where the search stands at a place to weigh.

    Ending where others go on is one option, however many stop tokens the model has.
    """
    if not search.is_at(sequence.output):
        return
    options, may_end = search.options
    scores = logits[torch.tensor(options)].double()
    if may_end:
        stops = logits[torch.tensor(sorted(stop_ids))].double()
        scores = torch.cat([scores, stops.logsumexp(dim=0, keepdim=True)])
    search.weigh(scores.softmax(dim=-1).tolist())
