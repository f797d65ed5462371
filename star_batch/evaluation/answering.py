"""All requests of an evaluation to an engine, and its answers in their order. Does not know lmms-eval.

A record that cannot be answered costs its own answer alone.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from star_batch.errors import RecordError
from star_batch.evaluation.requests import IGNORED, Documents, Request
from star_batch.options import Decoding
from star_batch.records import Answer, Record
from star_batch.wording import line, quoted


class Answering(Protocol):
    """What is needed of an engine."""

    def answer(self, records: Iterable[Record], *, decoding: Decoding) -> list[Answer]: ...


def answer_all(
    engine: Answering,
    requests: Sequence[Request],
    documents: Documents,
    *,
    max_new_tokens: int,
    on_row: Callable[[], object] = lambda: None,
) -> list[Answer]:
    """One answer per request, in their order; `on_row` is called when a row is handed to the engine.

    Raises:
        ConfigError: a task asks for what is not supported. Options are looked at before any row is.
    """
    decodings = [request.decoding(max_new_tokens) for request in requests]
    ids = _ids(requests)
    answers: dict[str, Answer] = {}
    for decoding in dict.fromkeys(decodings):
        asked = ((id, request) for id, request, own in zip(ids, requests, decodings, strict=True) if own == decoding)
        answers |= _answers(engine, asked, documents, decoding, on_row)
    return [answers[id] for id in ids]


def _answers(
    engine: Answering,
    asked: Iterable[tuple[str, Request]],
    documents: Documents,
    decoding: Decoding,
    on_row: Callable[[], object],
) -> dict[str, Answer]:
    """By id. Documents are read a few batches ahead of the engine, not all at once."""
    failed: dict[str, Answer] = {}

    def records() -> Iterator[Record]:
        for id, request in asked:
            on_row()
            try:
                yield request.record(documents, id)
            except RecordError as error:
                failed[id] = Answer.failed(id, error)

    answered = engine.answer(records(), decoding=decoding)
    return failed | {answer.id: answer for answer in answered}


def _ids(requests: Sequence[Request]) -> list[str]:
    """Different ones for repetitions of a request, whose draws would be the same otherwise."""
    met = Counter[str]()
    ids = []
    for request in requests:
        met[request.id] += 1
        times = met[request.id]
        ids.append(request.id if times == 1 else f"{request.id}#{times}")
    return ids


def failures(answers: Sequence[Answer]) -> list[str]:
    """A line for each row that failed, and one that counts them; no lines if none did."""
    failed = [answer for answer in answers if answer.error is not None]
    if not failed:
        return []
    kinds = Counter(str(answer.error_kind) for answer in failed).most_common()
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds)
    total = f"{len(failed)} of {len(answers)} rows failed and are scored as empty answers: {counted}"
    return [*(line(f"{answer.id}: {answer.error_kind}: {answer.error}") for answer in failed), total]


def ignored(requests: Sequence[Request]) -> list[str]:
    """A line for each option of a task that changes nothing here."""
    named = ((request.task, name) for request in requests for name in IGNORED & request.options.keys())
    return [f"{task}: {quoted(name)} changes nothing here" for task, name in dict.fromkeys(named)]
