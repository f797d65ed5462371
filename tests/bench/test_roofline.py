"""The arithmetic, beside figures that were worked out independently for LLaVA-1.5-7B."""

from dataclasses import replace

import pytest
from transformers import AutoConfig, LlavaConfig

from star_batch.bench.rates import Rates
from star_batch.bench.roofline import Cost, Job, decode_step_seconds, kv_bytes_per_row, seconds_per_image
from star_batch.bench.shapes import SHAPES
from star_batch.bench.subject import shape_config

LLAVA = Cost.of(shape_config(SHAPES["llava-1.5-7b"]), 576)
H200 = Rates(flops=790e12, bandwidth=4.3e12)
TEXT = 40


def job(early: int, late: int | None = None, layer: int = 32, *, answer_tokens: int = 20, rows: int = 256) -> Job:
    """One request: `early` visual tokens, from `layer` on `late`."""
    tokens = [TEXT + early] * layer + [TEXT + (early if late is None else late)] * (32 - layer)
    return Job(tokens_per_layer=[tokens], kept=early, answer_tokens=answer_tokens, rows=rows, itemsize=2, kv_itemsize=2)


def test_the_sizes_of_llava() -> None:
    assert LLAVA.vision_flops() == pytest.approx(366e9, rel=0.01)
    assert LLAVA.token_flops == pytest.approx(12.95e9, rel=0.001)
    assert LLAVA.projector_flops(576) == pytest.approx(24.2e9, rel=0.01)
    assert LLAVA.kv_bytes_per_token(2) == 524_288
    assert 2 * LLAVA.linear_parameters == pytest.approx(13.2e9, rel=0.01)


@pytest.mark.parametrize(
    ("kept", "teraflops", "milliseconds"),
    [
        ((576,), 8.08, 10.72),
        ((192,), 3.02, 4.30),
        ((64,), 1.35, 2.18),
        ((192, 64, 16), 2.18, 3.24),
        ((576, 144, 2), 2.75, 3.97),
    ],
)
def test_prefill(kept: tuple[int, ...], teraflops: float, milliseconds: float) -> None:
    one = job(*kept, answer_tokens=1)
    assert LLAVA.prefill_flops(one.tokens_per_layer[0]) == pytest.approx(teraflops * 1e12, rel=0.01)
    assert seconds_per_image(LLAVA, one, H200) == pytest.approx(milliseconds / 1e3, rel=0.01)


@pytest.mark.parametrize(("kept", "milliseconds"), [(576, 23.8), (192, 11.8), (64, 7.84)])
def test_decode(kept: int, milliseconds: float) -> None:
    assert decode_step_seconds(LLAVA, job(kept), H200) == pytest.approx(milliseconds / 1e3, rel=0.01)


@pytest.mark.parametrize(("kept", "rate"), [(576, 80), (64, 363)])
def test_images_per_second(kept: int, rate: float) -> None:
    assert 1 / seconds_per_image(LLAVA, job(kept), H200) == pytest.approx(rate, rel=0.02)


def test_bytes_per_row_grow_with_the_answer() -> None:
    assert kv_bytes_per_row(LLAVA, job(576, answer_tokens=1)) == pytest.approx(323e6, rel=0.01)
    assert kv_bytes_per_row(LLAVA, job(192, 64, 16, answer_tokens=1)) == 168 * 524_288
    more = kv_bytes_per_row(LLAVA, job(64, answer_tokens=21)) - kv_bytes_per_row(LLAVA, job(64, answer_tokens=1))
    assert more == 20 * 524_288


def test_grouped_heads_make_small_caches() -> None:
    text = AutoConfig.for_model("qwen2", hidden_size=3584, num_attention_heads=28, num_key_value_heads=4)
    text.num_hidden_layers = 28
    config = LlavaConfig(text_config=text, vision_feature_layer=-2)
    assert Cost.of(config, 576).kv_bytes_per_token(2) == 56 * 1024


def test_what_is_run_once_for_many_costs_a_row_nothing_and_is_still_read() -> None:
    """35 of 104 tokens: a third less of the matrices, attention as before on what comes after them."""
    whole = job(64, answer_tokens=1)
    shared = replace(whole, shared_tokens=35.0)
    saved = (seconds_per_image(LLAVA, whole, H200) - seconds_per_image(LLAVA, shared, H200)) * H200.flops
    assert saved == pytest.approx(35 * LLAVA.token_flops, rel=0.01)
    assert kv_bytes_per_row(LLAVA, shared) == kv_bytes_per_row(LLAVA, whole)
