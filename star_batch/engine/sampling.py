"""From logits to the next token of each sequence. Knows no batch: a row's token depends on that row alone."""

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from star_batch.engine.choices import ChoiceSearch
from star_batch.engine.sequence import Sequence
from star_batch.errors import NotFinite

_NONE = -1  # instead of a token's id


def next_tokens(logits: Tensor, sequences: Seq[Sequence], stop_ids: frozenset[int]) -> list[int]:
    """One token id per sequence from float32 logits `[B, V]`; a row without finite logits gets an error.

    A row with choices has them weighed instead, and its token says nothing.
    Greedy rows share one argmax on the device; rows with a temperature, choices or a minimum length are
    looked at one by one, on the host. The device is waited for once, or twice if there are such rows.
    """
    best, indices = logits.max(dim=-1)
    tokens: list[int] = torch.where(best.isfinite(), indices, _NONE).tolist()
    for sequence, token in zip(sequences, tokens, strict=True):
        if token == _NONE:
            sequence.error = NotFinite("the model put out numbers that are not finite for this row")
    alone = [index for index, sequence in enumerate(sequences) if not (sequence.error or _is_plain(sequence))]
    for index, own in zip(alone, logits[alone].cpu() if alone else (), strict=True):
        sequence = sequences[index]
        if sequence.search is not None:
            _weigh(own, sequence, sequence.search, stop_ids)
        else:
            tokens[index] = _pick(_without_stops(own, sequence, stop_ids), sequence)
    return tokens


def _is_plain(sequence: Sequence) -> bool:
    parameters = sequence.sampling
    is_long = len(sequence.output) >= parameters.min_new_tokens
    return parameters.temperature == 0.0 and is_long and sequence.search is None


def _without_stops(logits: Tensor, sequence: Sequence, stop_ids: frozenset[int]) -> Tensor:
    stops = sorted(stop_ids | sequence.sampling.stop_ids)
    if len(sequence.output) >= sequence.sampling.min_new_tokens or not stops:
        return logits
    return logits.index_fill(0, torch.tensor(stops), -torch.inf)


def _pick(logits: Tensor, sequence: Sequence) -> int:
    """Greedy at temperature 0; else a draw from the smallest set of tokens that holds `top_p` of the mass."""
    parameters = sequence.sampling
    if parameters.temperature == 0.0:
        return int(logits.argmax())
    probabilities = nucleus((logits.double() / parameters.temperature).softmax(dim=-1), parameters.top_p)
    return int(torch.multinomial(probabilities, 1, generator=_generator(sequence)))


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Probabilities `[V]` with everything outside the nucleus set to zero (arXiv 1904.09751)."""
    ordered, order = probabilities.sort(descending=True, stable=True)
    is_outside = ordered.cumsum(dim=-1) - ordered >= top_p
    return torch.zeros_like(probabilities).scatter(0, order, ordered.masked_fill(is_outside, 0.0))


def _generator(sequence: Sequence) -> torch.Generator:
    """Fresh for every draw: a function of the job's seed, the record's id and the step."""
    mixed = (sequence.seed ^ sequence.sampling.seed) * 1_000_003 + len(sequence.output)
    return torch.Generator().manual_seed(mixed % 2**63)


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
