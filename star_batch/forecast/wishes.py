"""What is asked of a forecast: plain data, refused at birth if wrong. Knows no job."""

from dataclasses import dataclass

from star_batch.errors import ConfigError
from star_batch.forecast.gpus import gpu_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is asked of a forecast.

    `gpu` names one to reckon with instead of measuring, at the share `efficiency` of its roofline; `answer_tokens`
    is a typical answer's length there, None the longest. `num_gpus` engines run side by side: a GPU each, or a
    machine like this one; None takes as many GPUs as the job has actors.

    Raises:
        ConfigError: a value is out of range, or no such GPU is known.
    """

    sample_rows: int = 128
    seconds: float = 10.0
    gpu: str | None = None
    num_gpus: int | None = None
    price_per_gpu_hour: float | None = None
    efficiency: float = 0.5
    answer_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("sample_rows", "num_gpus"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: give 1 or more")
        if not self.seconds > 0:
            raise ConfigError(f"seconds={self.seconds}: give more than 0")
        if not 0 < self.efficiency <= 1:
            raise ConfigError(f"efficiency={self.efficiency}: give a share of the roofline above 0 and up to 1")
        if self.price_per_gpu_hour is not None and self.price_per_gpu_hour < 0:
            raise ConfigError(f"price_per_gpu_hour={self.price_per_gpu_hour}: give 0 or more")
        if self.gpu is not None:
            gpu_named(self.gpu)
