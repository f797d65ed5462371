"""What is asked of a forecast: plain data, refused at birth if wrong. Knows no job."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from star_batch.errors import ConfigError
from star_batch.forecast.gpus import gpu_named

MOST_ROWS = 10_000
"""Of a sample: its pictures are held in memory."""
MOST_SECONDS = 86_400
MOST_GPUS = 100_000
HIGHEST_PRICE = 1_000_000
"""In any currency, with room for those that count in thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastOptions:
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
        share = "a share of the roofline above 0 and up to 1"
        _require(1 <= self.sample_rows <= MOST_ROWS, "sample_rows", self, f"1 or more, up to {MOST_ROWS:,}")
        _require(0 < self.seconds <= MOST_SECONDS, "seconds", self, f"more than 0, up to {MOST_SECONDS:,}")
        _require(0 < self.efficiency <= 1, "efficiency", self, share)
        if self.num_gpus is not None:
            _require(1 <= self.num_gpus <= MOST_GPUS, "num_gpus", self, f"1 or more, up to {MOST_GPUS:,}")
        if self.price_per_gpu_hour is not None:
            is_price = 0 <= self.price_per_gpu_hour <= HIGHEST_PRICE
            _require(is_price, "price_per_gpu_hour", self, f"0 or more, up to {HIGHEST_PRICE:,}")
        if self.answer_tokens is not None:
            _require(self.answer_tokens >= 1, "answer_tokens", self, "1 or more")
        if self.gpu is not None:
            gpu_named(self.gpu)


def check_names(given: Mapping[str, object]) -> None:
    """Raises:
    ConfigError: one of them is no option; with those there are.
    """
    known = [option.name for option in fields(ForecastOptions)]
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(f"{unknown[0]}: is no option of a plan; there are {', '.join(known)}")


def _require(is_good: bool, name: str, options: ForecastOptions, wanted: str) -> None:
    # NaN is neither above nor below anything, and so is refused as well.
    if not is_good:
        raise ConfigError(f"{name}={getattr(options, name)}: give {wanted}")
