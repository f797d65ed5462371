"""The most memory that a contender took: torch's own count on CUDA, the process's resident set on CPU."""

from pathlib import Path

import psutil
import torch

# Linux starts a process's high-water mark afresh when this is written there.
_RESET, _RESET_PEAK = Path("/proc/self/clear_refs"), "5"
_STATUS, _PEAK = Path("/proc/self/status"), "VmHWM:"


def reset_peak(device: torch.device) -> None:
    """From here on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _RESET.exists():
        _RESET.write_text(_RESET_PEAK, encoding="ascii")


def peak_bytes(device: torch.device) -> int | None:
    """Since the reset; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if not _RESET.exists():
        return None
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(_PEAK)), None)


def resident_bytes() -> int:
    """Of this process, now."""
    resident: int = psutil.Process().memory_info().rss
    return resident
