"""What this device can do, measured on the spot: matrix products and copies. Knows no model."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_SECONDS = 0.5  # per rate: long enough for clocks to rise, short enough not to heat the device


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """`flops` operations per second of a large matrix product in the run's dtype, `bandwidth` bytes per
    second that a copy reads and writes."""

    flops: float
    bandwidth: float


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """The best of several tries: a limit is what was possible, not what was usual."""
    side = 8192 if device.type == "cuda" else 1536
    left, right = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))  # ones cost less power
    product = torch.empty_like(left)
    matmul = _fastest(lambda: torch.mm(left, right, out=product), device)
    num_bytes = 2**30 if device.type == "cuda" else 2**27
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = _fastest(lambda: target.copy_(source), device)
    return Rates(flops=2 * side**3 / matmul, bandwidth=2 * num_bytes / copy)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given: only then may a clock be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call; the first is not counted."""
    _timed(work, device)
    end, seconds = time.perf_counter() + _SECONDS, [_timed(work, device)]
    while time.perf_counter() < end:
        seconds.append(_timed(work, device))
    return min(seconds)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start
