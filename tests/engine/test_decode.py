"""Decode steps: kernels against gathered keys, and graphs of fixed sizes against steps of the size that is needed."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from star_batch import Answer, Engine, EngineOptions, Pruning
from star_batch.engine import causal, pagewise, runner
from star_batch.engine.decode import GatheredAttention, choose_paged
from star_batch.engine.decode_graph import DecodeGraphs, batch_sizes
from star_batch.engine.pagewise import PagewiseAttention
from star_batch.engine.scheduler import Budget
from star_batch.models.attention import causal_attention, lasting_kernels
from tests.tiny import random_records

PAGE = 4
SMALLEST_SHARED_MEMORY = 99 * 1024
"""Bytes that a program gets at most, on the smallest device since Ampere."""


def triton_version() -> tuple[int, ...]:
    try:
        return tuple(map(int, version("triton").split(".")[:2]))
    except PackageNotFoundError:
        return (0,)


def answers(model: str, rows: int, pruning: Pruning) -> list[Answer]:
    records = [replace(record, max_new_tokens=2 + 5 * i % 13) for i, record in enumerate(random_records(20))]
    options = EngineOptions(max_rows=rows, page_size=PAGE, vision_batch=4)
    with Engine.from_pretrained(model, pruning=pruning, dtype="float32", device="cpu", options=options) as engine:
        return engine.answer(records)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every engine decodes by graphs that only pretend: sizes that were captured, in order."""
    captured: list[int] = []

    def capture(step: Callable[[], Any]) -> Callable[[], Any]:
        captured.append(len(step()))
        return step

    plain = runner.Runner.__init__

    def with_graphs(self: runner.Runner, *args: object, budget: Budget, **options: object) -> None:
        plain(self, *args, budget=budget, **options)  # type: ignore[arg-type]
        self._graphs = self._make_graphs(budget, capture)

    monkeypatch.setattr(runner.Runner, "__init__", with_graphs)
    return captured


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("rows", [5, 7, 64])
def test_steps_of_fixed_sizes_say_the_same(
    tiny: str, request: pytest.FixtureRequest, rows: int, positions: str
) -> None:
    """Rows come and go between sizes, and what is left over touches nobody's pages."""
    pruning = Pruning(method="star", keep=16, positions=positions)
    expected = [answer.token_ids for answer in answers(tiny, rows, pruning)]
    captured: list[int] = request.getfixturevalue("graphs")
    assert [answer.token_ids for answer in answers(tiny, rows, pruning)] == expected
    assert len(captured) > 1
    assert len(set(captured)) == len(captured), "a size was captured twice"


def test_what_cannot_be_captured_is_run_as_it_is(tiny: str, monkeypatch: pytest.MonkeyPatch, graphs: list[int]) -> None:
    pruning = Pruning(method="star", keep=16)
    expected = [answer.token_ids for answer in answers(tiny, 7, pruning)]
    monkeypatch.setattr(DecodeGraphs, "_capture_size", lambda self, size: None)
    assert [answer.token_ids for answer in answers(tiny, 7, pruning)] == expected


@given(st.integers(1, 600))
def test_there_is_a_graph_for_every_batch_and_few_in_all(max_rows: int) -> None:
    sizes = batch_sizes(max_rows)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == max_rows
    assert all(later <= max(2 * earlier, earlier + 32) for earlier, later in pairwise(sizes))


@pytest.mark.skipif(triton_version() < (3, 7), reason="no triton, or one whose interpreter does not take today's NumPy")
def test_the_kernel_equals_attention_over_gathered_pages() -> None:
    subprocess.run([sys.executable, "-m", "tests.engine.interpreted_kernel"], check=True)


@pytest.mark.skipif(triton_version() < (3, 6), reason="no triton, or one that compiles by another interface")
@pytest.mark.parametrize(("dtype", "shared"), [("bf16", 1), ("fp32", 7)])
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_compiles_for_devices_that_are_not_here(capability: int, dtype: str, shared: int) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from star_batch.engine import paged_kernel as kernel

    constants = {"PAGE": 16, "SHARED": shared, "SHARED_PADDED": 16, "WIDTH": 128, "WIDTH_PADDED": 128}
    types = [*[f"*{dtype}"] * 3, *["*i64"] * 2, *["*fp32"] * 2, "fp32", *["i32"] * 4, *["constexpr"] * 6]
    signature = dict(zip(kernel._attend.arg_names, types, strict=True))
    source = ASTSource(fn=kernel._attend, signature=signature, constexprs=constants | {"BLOCK": kernel._BLOCK})
    compiled = compile(source, target=GPUTarget("cuda", capability, 32))
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= SMALLEST_SHARED_MEMORY


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_where_the_kernel_cannot_be_compiled_keys_are_gathered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An image without a C compiler came to its first decode step, and ended there."""
    from star_batch.engine import paged_kernel as kernel

    def fail(device: torch.device) -> None:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    monkeypatch.setattr(kernel, "try_out", fail)
    assert choose_paged(torch.device("cuda")) is GatheredAttention
    assert "Failed to find C compiler" in caplog.text
    monkeypatch.setattr(kernel, "try_out", lambda device: None)
    assert choose_paged(torch.device("cuda")) is kernel.PagedKernel


def test_flash_attention_is_asked_for_nothing_that_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    old = causal.choose_causal([3, 2], torch.device("cuda"), torch.float16)
    narrow = causal._Varlen([3, 2], torch.device("cpu"), 0)
    query, key, value = (torch.randn(4, 5, 12) for _ in range(3))
    expected = causal_attention(query, key, value, 0.3, [3, 2])
    torch.testing.assert_close(old(query, key, value, 0.3), expected)
    torch.testing.assert_close(narrow(query, key, value, 0.3), expected)


def test_no_attention_that_is_planned_anew_for_every_shape() -> None:
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with lasting_kernels(torch.device("cuda")):
        assert torch.backends.cuda.flash_sdp_enabled()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_a_long_row_is_split_among_programs_where_rows_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    from star_batch.engine import paged_kernel as kernel

    class Processors:
        multi_processor_count = 132

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Processors)
    device = torch.device("cuda")
    assert kernel._num_splits(32, 4096, device) == 16
    assert kernel._num_splits(256 * 32, 4096, device) == 1
    assert kernel._num_splits(1, 100, device) == 1


@st.composite
def rows_of_pages(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """`pages [B, M]` scattered over a pool of 40, filled up by each row's own first, and `lengths [B]` within them."""
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    order = draw(st.permutations(range(draw(st.integers(sum(counts), 40)))))
    rows = [[order.pop() for _ in range(count)] for count in counts]
    lengths = [draw(st.integers(1, PAGE * count)) for count in counts]
    most = max(counts)
    return torch.tensor([row + row[:1] * (most - len(row)) for row in rows]), torch.tensor(lengths)


@given(rows_of_pages(), st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([1, 3]))
def test_page_by_page_equals_attention_over_gathered_rows(
    rows: tuple[torch.Tensor, torch.Tensor], least_share: float, shared: int
) -> None:
    """Wherever pages lie, and whatever is left in those that nobody holds or that a row has not reached."""
    pages, lengths = rows
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(len(pages), 2, shared, 8, generator=generator)
    keys, values = (10 * torch.randn(40, 2, PAGE, 8, generator=generator) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pagewise, "_LEAST_SHARE", least_share)
        in_place = PagewiseAttention(pages, lengths, PAGE)
    expected = GatheredAttention(pages, lengths, PAGE)(query, keys, values, 0.3)
    torch.testing.assert_close(in_place(query, keys, values, 0.3), expected, rtol=1e-4, atol=1e-4)
    assert in_place.num_read >= lengths.sum()


def test_a_row_of_nonsense_stays_alone() -> None:
    """One row's NaN once reached its neighbours: a weight of 0 times NaN is NaN."""
    pages, lengths = torch.tensor([[0, 1, 2], [3, 3, 3], [5, 4, 5]]), torch.tensor([9, 3, 8])
    query, keys, values = torch.ones(3, 2, 1, 8), torch.ones(6, 2, PAGE, 8), torch.ones(6, 2, PAGE, 8)
    keys[:3], values[:3] = torch.nan, torch.nan
    out = PagewiseAttention(pages, lengths, PAGE)(query, keys, values, 0.3)
    assert out[0].isnan().all()
    torch.testing.assert_close(out[1:], torch.ones(2, 2, 1, 8))


@pytest.mark.parametrize("before", [0, 4])
@pytest.mark.parametrize("shared", [1, 3])
def test_runs_of_equal_lengths_attend_like_blocks(shared: int, before: int) -> None:
    lengths = [5, 5, 5, 9, 1, 1, 5]
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2 * shared, sum(lengths), 8, generator=generator)
    key, value = (torch.randn(2, sum(lengths) + before * len(lengths), 8, generator=generator) for _ in range(2))
    found = causal.attend_by_runs(query, key, value, 0.3, lengths, before)
    assert torch.allclose(found, causal_attention(query, key, value, 0.3, lengths, before), atol=1e-5)
