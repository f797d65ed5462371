"""A checkpoint of any family, loaded on CPU in float32."""

from pathlib import Path
from typing import Any

import torch

from star_batch.models import Checkpoint, family_of, load_preprocessor


def loaded(folder: Path) -> Any:
    checkpoint = Checkpoint(name=str(folder))
    return family_of(checkpoint, checkpoint.config()).load(
        checkpoint,
        dtype=torch.float32,
        device=torch.device("cpu"),
        normalisation=load_preprocessor(str(folder)).normalisation,
        attention="sdpa",
    )
