"""When an answer ends, and what it says. Knows no tensor and no model but its words."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import TypeAlias

from star_batch.engine.sequence import Sequence
from star_batch.records import Answer, FinishReason

Decode: TypeAlias = Callable[[Seq[int]], str]
"""Token ids to text."""


def extend(sequence: Sequence, token: int, *, stop_ids: frozenset[int], decode: Decode) -> None:
    """Take in the next token; sets `finish_reason` and `text` if the answer ends with it."""
    if sequence.error is not None:
        return
    sequence.output.append(token)
    if sequence.choice is not None:
        _follow(sequence, token)
    elif token in stop_ids:
        _end(sequence, decode(sequence.output[:-1]), "stop")
    elif (cut := _before_stop(sequence, decode)) is not None:
        _end(sequence, cut, "stop")
    elif len(sequence.output) >= sequence.limits.max_new_tokens:
        _end(sequence, decode(sequence.output), "length")


def answer_of(sequence: Sequence) -> Answer:
    """What the caller gets for a finished sequence."""
    if sequence.error is not None:
        return Answer.failed(sequence.id, sequence.error)
    label = sequence.choice.label if sequence.choice is not None else None
    return Answer(
        id=sequence.id,
        text=sequence.text,
        token_ids=tuple(sequence.output),
        finish_reason=sequence.finish_reason,
        label=label,
        label_probability=sequence.choice_probability if label is not None else None,
        num_visual=sequence.num_visual,
        num_kept=sequence.counts,
        kept=tuple(tuple(places.tolist()) for places in sequence.kept) if sequence.kept is not None else None,
        num_prompt=sequence.prompt.num_tokens,
        num_output=len(sequence.output),
        times=sequence.clock.times(),
    )


def _end(sequence: Sequence, text: str, reason: FinishReason) -> None:
    sequence.text, sequence.finish_reason = text.strip(), reason


def _before_stop(sequence: Sequence, decode: Decode) -> str | None:
    """The text up to the first stop string in it, or None if there is none, or it may not end yet."""
    limits = sequence.limits
    if not limits.stop or len(sequence.output) < limits.min_new_tokens:
        return None
    text = decode(sequence.output)
    places = [place for stop in limits.stop if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else None


def _follow(sequence: Sequence, token: int) -> None:
    """One step down the trie; once a single label is left, its remaining tokens need no model."""
    assert sequence.choice is not None
    node = sequence.choice.children.get(token)
    if node is None:  # the end token, which closes a choice that others go on from
        _end(sequence, sequence.choice.label or "", "stop")
        return
    sequence.choice = node
    if node.is_decided:
        rest, sequence.choice = node.rest()
        sequence.output += rest
        _end(sequence, sequence.choice.label or "", "stop")
