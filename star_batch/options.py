"""What a user chooses about decoding and the engine: plain data, refused at birth if wrong.

Knows no model and no pruning; how options are checked, and in which words, is the same for those of pruning.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Literal, TypeGuard

from star_batch.errors import ConfigError
from star_batch.wording import quoted

Positions = Literal["original", "compact"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_HIGHEST_PENALTY = 100.0
_LOWEST_TEMPERATURE = 0.001  # below it, dividing the logits overflows

STRICT: dict[str, Any] = {"extra": "forbid"}
"""Read by pydantic when options are fields of a configuration; costs no import here."""


def require(condition: bool, message: str) -> None:
    """Raises:
    ConfigError: with that message, unless the condition holds.
    """
    if not condition:
        raise ConfigError(message)


def one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raises:
    ConfigError: the value is none of those.
    """
    require(value in allowed, f"{name}={quoted(value)} is not known; choose one of {', '.join(allowed)}")


def is_count(value: object) -> bool:
    """A whole number of 1 or more, of any integer type but bool."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0


def is_seed(value: object) -> bool:
    """A whole number that seeds a generator."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def is_number(value: object) -> TypeGuard[float]:
    """A finite int or float that is not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_share(name: str, value: float) -> None:
    """Raises:
    ConfigError: it is no share from 0.0 to 1.0.
    """
    require(is_number(value) and 0.0 <= value <= 1.0, f"{name}={quoted(value)}: give a share from 0.0 to 1.0")


def check_amount(name: str, value: int | float | None) -> None:
    """A number of tokens (int >= 1) or a retention (float in (0, 1]), or nothing.

    Raises:
        ConfigError: something else.
    """
    if value is None or is_count(value):
        return
    is_retention = isinstance(value, float) and 0.0 < value <= 1.0
    require(
        is_retention,
        f"{name}={quoted(value)}: give a number of visual tokens (1 or more) or a share above 0.0 up to 1.0",
    )


_MOST_GIB = 1_000_000  # more than any machine has, and a size in bytes that is still a number


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How answers are decoded. Greedy at temperature 0.

    With a temperature, a row's draws depend on `seed`, its id and the step alone: never on its batch.
    `repetition_penalty`: above 1.0, tokens of the prompt and of the answer so far become less likely; None is what the
    checkpoint's generation settings say. It comes before the temperature, and does not weigh choices.
    `stop`: strings that end an answer and are not part of it; a special token may be one.

    Raises:
        ConfigError: a value is out of range.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        require(is_count(self.max_new_tokens), f"max_new_tokens={quoted(self.max_new_tokens)}: give 1 or more")
        hot = self.temperature
        is_warm = is_number(hot) and (hot == 0.0 or hot >= _LOWEST_TEMPERATURE)
        require(is_warm, f"temperature={quoted(hot)}: give 0.0 (greedy), or {_LOWEST_TEMPERATURE} or more")
        require(
            is_number(self.top_p) and 0.0 < self.top_p <= 1.0, f"top_p={quoted(self.top_p)}: give a share up to 1.0"
        )
        require(is_seed(self.seed), f"seed={quoted(self.seed)}: give a whole number from 0 to 2**63 - 1")
        penalty = self.repetition_penalty
        is_penalty = penalty is None or (is_number(penalty) and 0.0 < penalty <= _HIGHEST_PENALTY)
        require(
            is_penalty,
            f"repetition_penalty={quoted(penalty)}: give a number above 0.0 up to {_HIGHEST_PENALTY}, such as 1.05",
        )
        is_list = isinstance(self.stop, tuple | list) and all(isinstance(stop, str) and stop for stop in self.stop)
        require(is_list, f"stop={quoted(self.stop)}: give a list of strings, none of them empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How much the engine takes at once. The defaults suit one accelerator or a small CPU.

    `max_rows` decode slots; `max_prefill_tokens` per prefill batch (None: what suits the device); `page_size`
    tokens per KV page; `kv_memory_gib` for the KV cache (None: from free memory); `memory_share`: the part of a GPU
    that is this engine's, weights included, where several share it (None: all); `vision_batch` images per encoder
    call (None: what suits the device); `share_prefix`: tokens that rows have in common before their first
    image are run once.

    Raises:
        ConfigError: a value is out of range.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    max_rows: int = 128
    max_prefill_tokens: int | None = None
    page_size: int = 16
    kv_memory_gib: float | None = None
    memory_share: float | None = None
    vision_batch: int | None = None
    share_prefix: bool = True

    def __post_init__(self) -> None:
        for name in ("max_rows", "page_size"):
            value = getattr(self, name)
            require(is_count(value), f"{name}={quoted(value)}: give a whole number of 1 or more")
        for name in ("max_prefill_tokens", "vision_batch"):
            value = getattr(self, name)
            message = f"{name}={quoted(value)}: give a whole number of 1 or more, or leave it out"
            require(value is None or is_count(value), message)
        memory = self.kv_memory_gib
        is_size = memory is None or (is_number(memory) and 0.0 < memory <= _MOST_GIB)
        require(is_size, f"kv_memory_gib={quoted(memory)}: give a size above 0.0 or leave it out")
        share = self.memory_share
        is_share = share is None or (is_number(share) and 0.0 < share <= 1.0)
        require(is_share, f"memory_share={quoted(share)}: give a share above 0.0 up to 1.0, or leave it out")
        require(isinstance(self.share_prefix, bool), f"share_prefix={quoted(self.share_prefix)}: give true or false")
