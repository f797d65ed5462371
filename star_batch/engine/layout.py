"""Where every token of a packed batch lies and which position it has, as index tensors. Knows no model.

Built on CPU from plain numbers, then moved to the device in one piece.
"""

from collections.abc import Sequence as Seq
from itertools import zip_longest

import torch
from torch import Tensor

from star_batch.engine.attention import Span
from star_batch.engine.sequence import Sequence


def spans_of(sequences: Seq[Sequence], num_before: int = 0) -> list[Span]:
    """Packed spans of the sequences as they enter the decoder, but for the first `num_before` tokens of each."""
    spans, start = [], 0
    for sequence in sequences:
        span = _span(start, sequence, num_before)
        spans.append(span)
        start = span.end
    return spans


def _span(start: int, sequence: Sequence, num_before: int) -> Span:
    visual, length = [], -num_before
    for text, image in zip_longest(sequence.prompt.texts, sequence.images):
        length += len(text)
        if image is not None:
            visual.append(torch.arange(length, length + len(image.survivors.kept)))
            length += len(image.survivors.kept)
    return Span(start, length, torch.cat(visual), len(sequence.prompt.texts[-1]))


def visual_index(spans: Seq[Span]) -> Tensor:
    """Packed places `[sum of visual]` of the visual tokens."""
    return torch.cat([span.start + span.visual for span in spans])


def cut(spans: Seq[Span], kept: Seq[Tensor]) -> tuple[Tensor, list[Span]]:
    """Packed places of all text tokens and of each sequence's `kept` visual tokens, and where they lie then."""
    places, shorter, start = [], [], 0
    for span, chosen in zip(spans, kept, strict=True):
        stays = torch.ones(span.length, dtype=torch.bool)
        stays[span.visual] = False
        stays[span.visual[chosen]] = True
        places.append(span.start + stays.nonzero().squeeze(1))
        visual = stays.cumsum(0)[span.visual[chosen]] - 1
        shorter.append(Span(start, len(places[-1]), visual, span.after))
        start = shorter[-1].end
    return torch.cat(places), shorter


def original_positions(sequences: Seq[Sequence], num_axes: int, num_before: int = 0) -> Tensor:
    """Positions `[A, T]` in the unpruned sequence, for what the early stage kept: text is not moved up."""
    parts = []
    for sequence in sequences:
        first, at = num_before, 0
        for text, image in zip_longest(sequence.prompt.texts, sequence.images):
            parts.append(torch.arange(at + first, at + len(text)).expand(num_axes, -1))
            first, at = 0, at + len(text)
            if image is not None:
                parts.append(at + image.layout.positions[:, image.survivors.kept])
                at += image.layout.extent
    return torch.cat(parts, dim=1)


def compact_positions(spans: Seq[Span], num_before: int = 0) -> Tensor:
    """Positions `[1, T]` counted anew in every sequence, as if what was pruned had never been there."""
    return torch.cat([torch.arange(num_before, num_before + span.length) for span in spans]).unsqueeze(0)


def prompt_slots(sequences: Seq[Sequence], spans: Seq[Span], group: int, page_size: int, num_before: int = 0) -> Tensor:
    """Cache slots `[2, T]` of all prompt tokens, packed; those before the spans included."""
    pairs = zip(sequences, spans, strict=True)
    return torch.cat([_slots(s.pages[group], num_before + span.length, page_size) for s, span in pairs], dim=1)


def _slots(pages: Seq[int], length: int, page_size: int) -> Tensor:
    """Page and offset of a row's first tokens, `[2, length]`."""
    tokens = torch.arange(length)
    return torch.stack([torch.tensor(pages)[tokens // page_size], tokens % page_size])


def padded_pages(sequences: Seq[Sequence], group: int) -> Tensor:
    """Pages of every row, `[B, P]`; a short row is padded with its own first page, never with another's."""
    rows = [sequence.pages[group] for sequence in sequences]
    most = max(map(len, rows))
    return torch.tensor([[*row, *row[:1] * (most - len(row))] for row in rows])
