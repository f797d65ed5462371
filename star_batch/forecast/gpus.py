"""GPUs by their data sheets, for planning where there is none. Nothing reaches these figures: they are limits."""

from dataclasses import dataclass

from star_batch.errors import ConfigError
from star_batch.wording import quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """Dense matrix products in TFLOP/s with 16-bit numbers and with 32-bit ones (no TF32), GB/s and GB of memory."""

    half_tflops: float
    single_tflops: float
    bandwidth_gbs: float
    memory_gb: float


GPUS = {
    "t4": Gpu(half_tflops=65, single_tflops=8.1, bandwidth_gbs=320, memory_gb=16),
    "l4": Gpu(half_tflops=121, single_tflops=30.3, bandwidth_gbs=300, memory_gb=24),
    "a10": Gpu(half_tflops=125, single_tflops=31.2, bandwidth_gbs=600, memory_gb=24),
    "l40s": Gpu(half_tflops=362, single_tflops=91.6, bandwidth_gbs=864, memory_gb=48),
    "a100-40gb": Gpu(half_tflops=312, single_tflops=19.5, bandwidth_gbs=1555, memory_gb=40),
    "a100-80gb": Gpu(half_tflops=312, single_tflops=19.5, bandwidth_gbs=2039, memory_gb=80),
    "h100": Gpu(half_tflops=989, single_tflops=67, bandwidth_gbs=3350, memory_gb=80),
    "h200": Gpu(half_tflops=989, single_tflops=67, bandwidth_gbs=4800, memory_gb=141),
}
"""NVIDIA's; A100, H100 and H200 as SXM."""


def gpu_named(name: str) -> Gpu:
    """Raises:
    ConfigError: no GPU of that name is known.
    """
    if name.lower() not in GPUS:
        raise ConfigError(f"gpu {quoted(name)} is not known; choose one of {', '.join(GPUS)}")
    return GPUS[name.lower()]
