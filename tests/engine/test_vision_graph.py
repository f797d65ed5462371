"""Encoding by graphs: results lie at fixed addresses, and whoever kept one would see the next images in it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from star_batch import Engine, EngineOptions, Pruning
from star_batch.engine.vision import VisionRunner
from star_batch.engine.vision_graph import VisionGraphs
from star_batch.models import ImageFeatures
from tests.tiny import random_records

PRUNINGS = [
    Pruning(),
    Pruning(method="star", keep=16),
    Pruning(method="vispruner", keep=15),
    Pruning(method="stride", keep=15),
]


def cloned(out: Any) -> Any:
    if isinstance(out, Tensor):
        return out.contiguous().clone()
    return ImageFeatures(out.features.clone(), out.attention.clone())


def pretended(step: Callable[[], Any]) -> Callable[[], Any]:
    """A graph as far as memory is concerned: each run writes over what the first one returned."""
    fixed = cloned(step())

    def replay() -> Any:
        pairs = ((fixed, step()),) if isinstance(fixed, Tensor) else zip(fixed, step(), strict=True)
        for old, new in pairs:
            if old is not None:
                old.copy_(new)
        return fixed

    return replay


def broken(step: Callable[[], Any]) -> Callable[[], Any]:
    raise RuntimeError("operation not permitted when stream is capturing")


def answers(model: str, pruning: Pruning, capture: Callable[..., Any] | None = None) -> list[tuple[int, ...]]:
    options = EngineOptions(vision_batch=4, max_rows=8)
    with Engine.from_pretrained(model, pruning=pruning, dtype="float32", device="cpu", options=options) as engine:
        vision = engine._core._vision
        if capture is not None:
            vision._graphs = vision._make_graphs(capture)
            assert vision._graphs is not None
        return [answer.token_ids for answer in engine.answer(random_records(30), max_new_tokens=6)]


@pytest.mark.parametrize("pruning", PRUNINGS, ids=lambda pruning: pruning.method)
def test_images_that_are_encoded_one_after_the_other_stay_apart(tiny: str, pruning: Pruning) -> None:
    expected = answers(tiny, pruning)
    assert len(set(expected)) > 10
    assert answers(tiny, pruning, pretended) == expected


def test_what_cannot_be_captured_is_run_as_it_is(tiny: str, caplog: pytest.LogCaptureFixture) -> None:
    pruning = Pruning(method="star", keep=16)
    assert answers(tiny, pruning, broken) == answers(tiny, pruning)
    assert "encoding images without a CUDA graph: operation not permitted" in caplog.text


def test_a_smaller_micro_batch_is_captured_anew() -> None:
    """Out of memory, micro-batches are halved."""
    seen: list[int] = []

    def encode(views: Tensor) -> ImageFeatures:
        return ImageFeatures(views.float(), views.float())

    def capture(step: Callable[[], Any]) -> Callable[[], Any]:
        out = step()
        seen.append(len(out if isinstance(out, Tensor) else out.features))
        return pretended(step)

    graphs = VisionGraphs(encode, lambda found: found.features.long() + 1, capture)
    for size, value in ((4, 1), (4, 2), (2, 3), (2, 4)):
        found = graphs.encode(torch.full((size, 3), value))
        assert found.features.tolist() == [[value] * 3] * size
        assert graphs.select(found).tolist() == [[value + 1] * 3] * size
    assert seen == [4, 4, 2, 2]


@pytest.mark.parametrize(
    "pruning", [Pruning(method="random", keep=15), Pruning(method="star", keep_mass=0.5)], ids=lambda p: p.method
)
def test_what_differs_from_row_to_row_has_no_graph(tiny: str, pruning: Pruning) -> None:
    with Engine.from_pretrained(tiny, pruning=pruning, dtype="float32", device="cpu") as engine:
        vision: VisionRunner = engine._core._vision
        assert vision._make_graphs(pretended) is None
