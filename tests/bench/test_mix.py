"""Mixed lengths through the scheduler: counted, not timed."""

from dataclasses import replace

from star_batch.bench.mix import Length, compare_policies, make_mix

MIX = make_mix(600)


def test_the_mix_is_the_same_every_time() -> None:
    assert make_mix(600) == MIX
    assert make_mix(600, seed=1) != MIX
    assert all(32 <= length.visual <= 576 and length.prompt >= 1 and length.answer >= 1 for length in MIX)


def test_the_outcome_is_the_same_every_time() -> None:
    assert compare_policies(MIX, 32) == compare_policies(MIX, 32)


def test_like_lengths_pad_less_than_arrival_order_and_refilled_slots_idle_less() -> None:
    static, arrival, like = compare_policies(MIX, 32)
    assert like.prefill_padding < arrival.prefill_padding / 3
    assert like.prefill_padding < static.prefill_padding / 3
    assert min(arrival.occupancy, like.occupancy) > 2 * static.occupancy
    assert like.decode_steps < static.decode_steps / 2


def test_every_row_is_prefilled_once_and_decoded_to_its_end() -> None:
    steps = sum(length.answer - 1 for length in MIX)
    for outcome in compare_policies(MIX, 32):
        assert round(outcome.prefills * outcome.rows_per_prefill) == len(MIX)
        assert round(outcome.occupancy * outcome.decode_steps * 32) == steps


def test_equal_rows_waste_nothing() -> None:
    static, arrival, like = compare_policies([Length(64, 16, 5)] * 32, 8)
    assert (static.prefill_padding, static.occupancy, static.key_padding) == (0.0, 1.0, 0.0)
    assert replace(arrival, policy="") == replace(like, policy="")
