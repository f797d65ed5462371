"""Checkpoints that the tests of the engine share, and an engine of one of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from star_batch import Engine, EngineOptions
from star_batch.models.checkpoint import DEMO
from tests.tiny import save_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random LLaVA: CLIP tower, LLaMA decoder with grouped heads."""
    return save_tiny(Path(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def demo() -> str:
    return str(DEMO)


@pytest.fixture(scope="module")
def engine(tiny: str) -> Iterator[Engine]:
    with Engine.from_pretrained(tiny, dtype="float32", options=EngineOptions(vision_batch=4)) as made:
        yield made
