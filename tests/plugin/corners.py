"""A pruning method from outside: the first tokens and the last ones. Registered when this module is imported."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from star_batch.errors import ConfigError
from star_batch.pruning import Pruning, PruningPlan, VisualTokens, register_method

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Corners(Pruning):
    """`ends`: the part of the tokens kept that is taken from the end."""

    method: Literal["corners"] = "corners"
    ends: float = 0.5

    def check(self) -> None:
        if not 0.0 <= self.ends <= 1.0:
            raise ConfigError(f"ends={self.ends}: a picture has two ends, give a part of it")

    def plan(self, num_layers: int) -> PruningPlan:
        return self.planned(num_layers, early=partial(_corners, ends=self.ends))


def _corners(tokens: VisualTokens, num_keep: int, ends: float) -> Tensor:
    import torch

    num_images, num_tokens, _ = tokens.features.shape
    last = round(num_keep * ends)
    kept = torch.cat([torch.arange(num_keep - last), torch.arange(num_tokens - last, num_tokens)])
    return kept.to(tokens.features.device).expand(num_images, -1)


register_method(Corners)
