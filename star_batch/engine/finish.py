"""When an answer ends, and what it says. Knows no tensor and no model but its words."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any, TypeAlias

from star_batch.engine.choices import ChoiceSearch
from star_batch.engine.sequence import Sequence
from star_batch.records import Answer, FinishReason

_MARGIN = 8  # tokens, and characters

Decode: TypeAlias = Callable[[Seq[int]], str]
"""Token ids to text."""


def extend(sequence: Sequence, token: int, *, stop_ids: frozenset[int], decode: Decode) -> None:
    """Take in the next token; sets `finish_reason` and `text` if the answer ends with it.

    Among choices the token is not looked at: their search has weighed what could follow.
    """
    if sequence.error is not None:
        return
    if sequence.search is not None:
        _follow(sequence, sequence.search)
        return
    sequence.output.append(token)
    if token in stop_ids or token in sequence.sampling.stop_ids:
        _end(sequence, decode(sequence.output[:-1]), "stop")
    elif (cut := _before_stop(sequence, decode)) is not None:
        _end(sequence, cut, "stop")
    elif len(sequence.output) >= sequence.sampling.max_new_tokens:
        _end(sequence, decode(sequence.output), "length")


def answer_of(sequence: Sequence) -> Answer:
    """What the caller gets for a finished sequence."""
    if sequence.error is not None:
        return Answer.failed(sequence.id, sequence.error)
    return Answer(
        id=sequence.id,
        text=sequence.text,
        token_ids=tuple(sequence.output),
        finish_reason=sequence.finish_reason,
        num_visual=sequence.num_visual,
        num_kept=sequence.counts,
        kept=tuple(tuple(places.tolist()) for places in sequence.kept) if sequence.kept is not None else None,
        num_prompt=sequence.prompt.num_tokens,
        num_output=len(sequence.output),
        times=sequence.clock.times(),
        **_label(sequence),
    )


def _end(sequence: Sequence, text: str, reason: FinishReason) -> None:
    sequence.text, sequence.finish_reason = text.strip(), reason


def _before_stop(sequence: Sequence, decode: Decode) -> str | None:
    """The text up to the first stop string in it, or None if there is none, or it may not end yet."""
    parameters = sequence.sampling
    if not parameters.stop or len(sequence.output) < parameters.min_new_tokens:
        return None
    if len(sequence.output) > max(1, parameters.min_new_tokens):  # looked at before
        tail = _tail(sequence, decode)
        if not any(stop in tail for stop in parameters.stop):
            return None
    text = decode(sequence.output)
    places = [place for stop in parameters.stop if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else None


def _tail(sequence: Sequence, decode: Decode) -> str:
    """The end of the answer, in which a stop string lies if the last token has completed one.

    A tokenizer may write the first tokens of a piece otherwise than within a text (a space left out, half a
    character): some more are there, and the answer is cut by its whole text. Tokens may be empty: more are taken then.
    """
    enough = max(map(len, sequence.sampling.stop)) + _MARGIN
    size = enough
    while len(text := decode(sequence.output[-size:])) < enough and size < len(sequence.output):
        size *= 2
    return text


def _follow(sequence: Sequence, search: ChoiceSearch) -> None:
    """To the next place to weigh, or to the likeliest choice, whose tokens need no model."""
    if not search.is_done:
        sequence.output = search.next_output(sequence.output)
        return
    sequence.probabilities = search.probabilities()
    sequence.label = max(sequence.probabilities, key=sequence.probabilities.__getitem__)
    sequence.output = list(search.token_ids(sequence.label))
    _end(sequence, sequence.label, "stop")


def _label(sequence: Sequence) -> dict[str, Any]:
    """What an answer says about the choice taken."""
    if sequence.probabilities is None:
        return {}
    best, second = sorted((0.0, *sequence.probabilities.values()))[:-3:-1]
    return {
        "label": sequence.label,
        "label_probability": best,
        "label_margin": best - second,
        "label_probabilities": sequence.probabilities,
    }
