"""When an answer ends, and what it says. Knows no tensor and no model but its words."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import TypeAlias

from star_batch.engine.sequence import Sequence
from star_batch.records import Answer

Decode: TypeAlias = Callable[[Seq[int]], str]
"""Token ids to text."""


def extend(sequence: Sequence, token: int, *, stop_ids: frozenset[int], decode: Decode) -> None:
    """Take in the next token; sets `finish_reason` and `text` if the answer ends with it."""
    sequence.output.append(token)
    if sequence.choice is not None:
        _follow(sequence, token)
    elif token in stop_ids:
        _end_at_stop(sequence, decode(sequence.output[:-1]))
    elif sequence.limits.stop and (cut := _before_stop(sequence, decode)) is not None:
        _end_at_stop(sequence, cut)
    elif len(sequence.output) >= sequence.limits.max_new_tokens:
        sequence.text, sequence.finish_reason = decode(sequence.output), "length"


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
        num_prompt=sequence.prompt.num_tokens,
        num_output=len(sequence.output),
        times=sequence.clock.times(),
    )


def _end_at_stop(sequence: Sequence, text: str) -> None:
    sequence.text, sequence.finish_reason = text, "stop"


def _before_stop(sequence: Sequence, decode: Decode) -> str | None:
    """The text up to the first stop string in it, or None if there is none."""
    text = decode(sequence.output)
    places = [place for stop in sequence.limits.stop if (place := text.find(stop)) >= 0]
    return text[: min(places)].strip() if places else None


def _follow(sequence: Sequence, token: int) -> None:
    """One step down the trie; once a single label is left, its remaining tokens need no model."""
    assert sequence.choice is not None
    node = sequence.choice.children.get(token)
    if node is None:  # the end token, which closes a choice that others go on from
        _end_at_stop(sequence, sequence.choice.label or "")
        return
    sequence.choice = node
    if node.is_decided:
        rest, sequence.choice = node.rest()
        sequence.output += rest
        _end_at_stop(sequence, sequence.choice.label or "")
