"""On a GPU: the kernels and graphs that nothing else reaches say what the plain ways say. Run it there first."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch

from star_batch import Answer, Engine, EngineOptions, Pruning, Record
from star_batch.engine import causal, decode
from star_batch.options import Dtype
from tests.engine.reference import generate
from tests.tiny import random_records

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions would round to TF32, by which the library on CPU does not."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


PRUNINGS = [Pruning(), Pruning(method="star", keep=16), Pruning(method="vispruner", keep=15)]


@contextmanager
def opened(model: str, pruning: Pruning, rows: int = 64, dtype: Dtype = "float32") -> Iterator[Engine]:
    options = EngineOptions(max_rows=rows, vision_batch=4, kv_memory_gib=0.25)
    with Engine.from_pretrained(model, pruning=pruning, dtype=dtype, device="cuda", options=options) as engine:
        yield engine


def tokens(answers: list[Answer]) -> list[tuple[int, ...]]:
    assert [answer.error for answer in answers] == [None] * len(answers)
    return [answer.token_ids for answer in answers]


def uneven(count: int) -> list[Record]:
    """Rows that leave at different steps, so that batches of many sizes are decoded."""
    return [replace(record, max_new_tokens=2 + 5 * i % 13) for i, record in enumerate(random_records(count))]


def test_none_equals_the_librarys_generate(tiny: str) -> None:
    records = random_records(6)
    with opened(tiny, Pruning()) as engine:
        assert tokens(engine.answer(records, max_new_tokens=12)) == generate(tiny, records, max_new_tokens=12)


@pytest.mark.parametrize("pruning", PRUNINGS, ids=lambda pruning: pruning.method)
def test_graphs_and_plain_steps_say_the_same(tiny: str, pruning: Pruning) -> None:
    records = uneven(40)
    with opened(tiny, pruning) as engine:
        by_graph = tokens(engine.answer(records))
        graphs = engine._core._runner._graphs
        assert graphs is not None
        assert len(graphs._graphs) > 1
        assert all(graph is not None for graph in graphs._graphs.values()), "a size could not be captured"
        engine._core._runner._graphs = None
        assert tokens(engine.answer(records)) == by_graph
        engine._core._runner._paged_attention = decode.GatheredAttention
        assert tokens(engine.answer(records)) == by_graph


@pytest.mark.parametrize("pruning", [*PRUNINGS, Pruning(method="stride", keep=15)], ids=lambda pruning: pruning.method)
def test_images_are_encoded_and_selected_by_graph(tiny: str, pruning: Pruning) -> None:
    records = uneven(18)
    with opened(tiny, pruning) as engine:
        by_graph = tokens(engine.answer(records))
        vision = engine._core._vision
        assert vision._graphs is not None
        assert vision._graphs._replay_encode is not None, "encoding could not be captured"
        assert not isinstance(vision._graphs._replay_select, partial), "selecting could not be captured"
        vision._graphs = None
        assert tokens(engine.answer(records)) == by_graph


@pytest.mark.parametrize("pruning", PRUNINGS, ids=lambda pruning: pruning.method)
def test_neither_batch_size_nor_order_changes_an_answer(tiny: str, pruning: Pruning) -> None:
    records = uneven(20)
    with opened(tiny, pruning, rows=1) as engine:
        alone = tokens(engine.answer(records))
    with opened(tiny, pruning, rows=7) as engine:
        assert tokens(engine.answer(records[::-1])) == alone[::-1]


def test_every_stage_has_its_seconds(tiny: str) -> None:
    with opened(tiny, Pruning(method="star", keep=16)) as engine:
        engine.answer(random_records(8), max_new_tokens=6)
        stats = engine.stats()
    for stage in ("vision_seconds", "select_seconds", "prefill_seconds", "decode_seconds"):
        assert getattr(stats, stage) > 0.0


def test_bfloat16_runs(tiny: str) -> None:
    with opened(tiny, Pruning(method="star", keep=16), dtype="bfloat16") as engine:
        assert len(tokens(engine.answer(uneven(20)))) == 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "heads", "shared", "width"), [(256, 32, 1, 128), (3, 4, 7, 128), (40, 8, 4, 64)])
def test_the_paged_kernel_at_real_sizes(dtype: torch.dtype, rows: int, heads: int, shared: int, width: int) -> None:
    make = decode.choose_paged(torch.device("cuda"))
    assert make is not decode.GatheredAttention, "triton is missing"
    generator = torch.Generator("cuda").manual_seed(0)
    page_size, num_pages = 16, 40
    query = torch.randn(rows, heads, shared, width, device="cuda", dtype=dtype, generator=generator)
    shape = (rows * num_pages, heads, page_size, width)
    keys, values = (torch.randn(shape, device="cuda", dtype=dtype, generator=generator) for _ in range(2))
    pages = torch.randperm(rows * num_pages, device="cuda", generator=generator).view(rows, num_pages)
    lengths = torch.randint(1, num_pages * page_size + 1, (rows,), device="cuda", generator=generator)
    found, expected = (
        attention(pages, lengths, page_size)(query, keys, values, width**-0.5)
        for attention in (make, decode.GatheredAttention)
    )
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    assert torch.allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("before", [0, 35])
@pytest.mark.parametrize("shared", [1, 4])
def test_variable_length_prefill_equals_runs_of_equal_lengths(shared: int, before: int) -> None:
    lengths = [1, 600, 600, 70, 128, 3]
    generator = torch.Generator("cuda").manual_seed(0)
    num_keys = sum(lengths) + before * len(lengths)
    query, key, value = (
        torch.randn(heads, tokens, 64, device="cuda", dtype=torch.bfloat16, generator=generator)
        for heads, tokens in ((8 * shared, sum(lengths)), (8, num_keys), (8, num_keys))
    )
    chosen = causal.choose_causal(lengths, query.device, query.dtype, before)
    expected = causal.attend_by_runs(query, key, value, 0.125, lengths, before)
    assert torch.allclose(chosen(query, key, value, 0.125), expected, atol=2e-2)
