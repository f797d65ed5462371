"""Where every token of a packed batch lies and which position it has, as index tensors. Knows no model.

Built on CPU from plain numbers, then moved to the device in one piece.
"""

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from star_batch.engine.attention import Span
from star_batch.engine.sequence import Sequence


def spans_of(sequences: Seq[Sequence], group: int) -> list[Span]:
    """Packed spans of the sequences as layer group `group` sees them."""
    spans, start = [], 0
    for sequence in sequences:
        span = Span(start, len(sequence.prompt.before), sequence.counts[group], len(sequence.prompt.after))
        spans.append(span)
        start = span.end
    return spans


def visual_index(spans: Seq[Span]) -> Tensor:
    """Places `[sum of visual]` of the visual tokens."""
    return torch.cat([torch.arange(span.visual_start, span.visual_end) for span in spans])


def kept_index(spans: Seq[Span], kept: Seq[Tensor]) -> Tensor:
    """Places of all text tokens and of each sequence's `kept` visual tokens, in order."""
    parts = []
    for span, places in zip(spans, kept, strict=True):
        parts += [
            torch.arange(span.start, span.visual_start),
            span.visual_start + places,
            torch.arange(span.visual_end, span.end),
        ]
    return torch.cat(parts)


def original_positions(sequences: Seq[Sequence]) -> Tensor:
    """Positions in the unpruned sequence, for what the early stage kept: text after the image is not moved up."""
    parts = []
    for sequence in sequences:
        before, after = len(sequence.prompt.before), len(sequence.prompt.after)
        tail = before + sequence.num_visual
        parts += [torch.arange(before), before + sequence.encoded.kept, torch.arange(tail, tail + after)]
    return torch.cat(parts)


def compact_positions(spans: Seq[Span]) -> Tensor:
    """Positions counted anew in every sequence, as if what was pruned had never been there."""
    return torch.cat([torch.arange(span.length) for span in spans])


def prompt_slots(sequences: Seq[Sequence], spans: Seq[Span], group: int, page_size: int) -> Tensor:
    """Cache slots of all prompt tokens, packed."""
    rows = (row_slots(sequence.pages[group], page_size) for sequence in sequences)
    return torch.cat([slots[: span.length] for slots, span in zip(rows, spans, strict=True)])


def row_slots(pages: Seq[int], page_size: int) -> Tensor:
    """All slots of a row's pages, in the order of its tokens."""
    return (torch.tensor(pages).unsqueeze(1) * page_size + torch.arange(page_size)).flatten()


def first_slot(pages: Seq[int], page_size: int) -> int | None:
    """Where a row begins if its pages lie side by side, so that it can be read in place; else None."""
    is_run = list(pages) == list(range(pages[0], pages[0] + len(pages)))
    return pages[0] * page_size if is_run else None


def padded_slots(sequences: Seq[Sequence], group: int, page_size: int) -> Tensor:
    """All slots of every row, `[B, S]`; a short row is padded with its own first page, never with another's."""
    rows = [sequence.pages[group] for sequence in sequences]
    most = max(map(len, rows))
    pages = [[*row, *row[:1] * (most - len(row))] for row in rows]
    return (torch.tensor(pages).unsqueeze(-1) * page_size + torch.arange(page_size)).flatten(1)
