"""Mixed shapes through the real engine under three policies: what is counted, never what is timed."""

import pytest

from star_batch.bench.mix import TimedOutcome, make_mix
from star_batch.bench.native import _requests, _subject, compare_natively
from star_batch.records import Picture

REQUESTS, SLOTS = 40, 8


@pytest.fixture(scope="module")
def outcomes() -> list[TimedOutcome]:
    return compare_natively(REQUESTS, SLOTS)


def test_every_policy_answers_every_row(outcomes: list[TimedOutcome]) -> None:
    steps = sum(length.answer - 1 for length in make_mix(REQUESTS))
    for outcome in outcomes:
        batches = outcome.batches
        assert round(batches.prefills * batches.rows_per_prefill) == REQUESTS
        assert round(batches.occupancy * batches.decode_steps * SLOTS) == steps
        assert outcome.rows_per_second > 0


def test_like_lengths_pad_less_than_arrival_order_and_refilled_slots_idle_less(outcomes: list[TimedOutcome]) -> None:
    like, arrival, static = (outcome.batches for outcome in outcomes)
    assert like.prefill_padding < arrival.prefill_padding
    assert like.occupancy > static.occupancy
    assert like.decode_steps < static.decode_steps


def test_the_requests_are_of_many_shapes_and_the_same_every_time() -> None:
    model, preprocessor = _subject(0)
    first, again = (_requests(make_mix(REQUESTS), preprocessor, 0) for _ in range(2))
    shapes = [record.image.views.shape for record in first if isinstance(record.image, Picture)]
    assert len(set(shapes)) > REQUESTS // 2
    assert [record.prompt for record in first] == [record.prompt for record in again]
    lengths = {model.layout(record.image).num_visual for record in first if isinstance(record.image, Picture)}
    assert max(lengths) > 8 * min(lengths)
