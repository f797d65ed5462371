"""Encoding and early selection as CUDA graphs, where all images have one shape. Knows no model and no method.

A selection may be hundreds of small kernels, whose launches one by one are the larger part of it.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from star_batch.engine.decode_graph import Capture
from star_batch.models import ImageFeatures

T = TypeVar("T")

Encode: TypeAlias = Callable[[Tensor], ImageFeatures]
"""Views of a micro-batch on the device, to what the encoder makes of them."""

Select: TypeAlias = Callable[[ImageFeatures], Tensor]
"""To the indices `[B, K]` kept, which depend on nothing else."""

_logger = logging.getLogger(__name__)


class VisionGraphs:
    """Graphs of `encode` and `select` for one shape of micro-batch; another shape is captured anew.

    What cannot be captured is run as it is. Results are good until the next run.
    """

    def __init__(self, encode: Encode, select: Select, capture: Capture) -> None:
        self._encode = encode
        self._select = select
        self._capture = capture
        self._views = torch.empty(0)
        self._replay_encode: Callable[[], ImageFeatures] | None = None
        self._replay_select: Callable[[], Tensor] | None = None

    def encode(self, views: Tensor) -> ImageFeatures:
        """Of views `[B, V, height, width, 3]` on the device."""
        if self._views.shape != views.shape:
            fixed = self._views = views.clone()
            self._replay_encode = self._replay_select = None  # frees the memory of the last shape first
            self._replay_encode = self._captured("encoding", lambda: self._encode(fixed))
        self._views.copy_(views)
        return self._replay_encode() if self._replay_encode is not None else self._encode(views)

    def select(self, found: ImageFeatures) -> Tensor:
        """Of what the last `encode` found."""
        if self._replay_encode is None:
            return self._select(found)
        if self._replay_select is None:
            plain = partial(self._select, found)
            self._replay_select = self._captured("selecting", plain) or plain
        return self._replay_select()

    def _captured(self, what: str, step: Callable[[], T]) -> Callable[[], T] | None:
        try:
            return self._capture(step)
        except Exception as error:  # what cannot be captured, or compiled, or has not the memory
            _logger.warning("%s images without a CUDA graph: %s", what, str(error).partition("\n")[0])
            return None
