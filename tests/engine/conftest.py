"""Checkpoints that the engine's tests share."""

from pathlib import Path

import pytest

from star_batch.models.checkpoint import DEMO
from tests.tiny import save_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random LLaVA: CLIP tower, LLaMA decoder with grouped heads."""
    return save_tiny(Path(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def demo() -> str:
    return str(DEMO)
