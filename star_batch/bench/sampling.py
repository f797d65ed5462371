"""What choosing the next tokens costs a decode step, beside the argmax of greedy decoding. Random logits, no model."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from star_batch.engine.sampling import next_tokens
from star_batch.engine.sequence import SamplingParameters, Sequence
from star_batch.models import Prompt

_ROUNDS = 5
_SPREAD = 3.0  # standard deviation of the logits: some tokens are likely, as in a language model


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to choose; `seconds` a step for all rows, the fastest of some, in turns with the others."""

    name: str
    seconds: float
    over_greedy: float


_WAYS: dict[str, SamplingParameters] = {
    "greedy": SamplingParameters(max_new_tokens=1),
    "temperature 0.7": SamplingParameters(max_new_tokens=1, temperature=0.7),
    "temperature 0.7, top-p 0.9": SamplingParameters(max_new_tokens=1, temperature=0.7, top_p=0.9),
    "temperature 0.7, top-p 0.5": SamplingParameters(max_new_tokens=1, temperature=0.7, top_p=0.5),
}


@torch.inference_mode()
def measure_sampling(rows: int, vocabulary: int, seed: int = 0) -> list[Way]:
    """Every way over the same logits `[rows, vocabulary]`, on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(seed)
    logits = (_SPREAD * torch.randn(rows, vocabulary, generator=generator)).to(device)
    steps = {name: _step(logits, parameters) for name, parameters in _WAYS.items()}
    fastest = dict.fromkeys(steps, float("inf"))
    for _ in range(_ROUNDS + 1):  # the first warms up, and may be the fastest all the same
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            fastest[name] = min(fastest[name], time.perf_counter() - start)
    return [
        Way(name=name, seconds=seconds, over_greedy=seconds / fastest["greedy"]) for name, seconds in fastest.items()
    ]


def _step(logits: Tensor, parameters: SamplingParameters) -> Callable[[], object]:
    rows = [
        Sequence(id=str(row), prompt=Prompt(((), ())), num_visual=0, counts=(0,), sampling=parameters)
        for row in range(len(logits))
    ]
    return lambda: next_tokens(logits, rows, frozenset())  # its tokens come to the host, so it is over then
