"""What a user chooses about pruning, decoding and the engine: plain data, refused at birth if wrong.

Knows no model: whether a layer number exists in a checkpoint is checked when a plan is made for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Literal, TypeGuard, get_args

from star_batch.errors import ConfigError
from star_batch.wording import quoted

Method = Literal["none", "random", "stride", "star", "vispruner"]
EarlyScores = Literal["encoder", "features"]
Positions = Literal["original", "compact"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_HIGHEST_PENALTY = 100.0
_LOWEST_TEMPERATURE = 0.001  # below it, dividing the logits overflows

# Read by pydantic when these classes are fields of a configuration; costs no import here.
_STRICT: dict[str, Any] = {"extra": "forbid"}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    _require(value in allowed, f"{name}={quoted(value)} is not known; choose one of {', '.join(allowed)}")


def is_count(value: object) -> bool:
    """A whole number of 1 or more, of any integer type but bool."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0


def _is_seed(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: object) -> TypeGuard[float]:
    """A finite int or float that is not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_amount(name: str, value: int | float | None) -> None:
    """A number of tokens (int >= 1) or a retention (float in (0, 1])."""
    if value is None or is_count(value):
        return
    is_retention = isinstance(value, float) and 0.0 < value <= 1.0
    _require(
        is_retention,
        f"{name}={quoted(value)}: give a number of visual tokens (1 or more) or a share above 0.0 up to 1.0",
    )


_MOST_GIB = 1_000_000  # more than any machine has, and a size in bytes that is still a number


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """How many visual tokens to keep, and which.

    `keep` is the mean over decoder layers of the visual tokens that a layer sees, as a number (int)
    or as a share of the image's tokens (float in (0, 1]), so that methods compare at equal cost.
    `None` keeps everything. Each method turns it into a schedule of its own; the other fields
    override parts of that schedule, and are refused for methods that have no such part.

    With `keep_mass` instead of `keep` the number follows the image: the fewest tokens whose received attention
    adds up to that share, at least `keep_least` and at most `keep_most` (numbers or shares).

    Raises:
        ConfigError: a value is out of range, or the method has no use for a field that is set.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    method: Method = "none"
    keep: int | float | None = None
    keep_mass: float | None = None
    keep_least: int | float | None = None
    keep_most: int | float | None = None
    early_keep: int | float | None = None
    late_keep: int | float | None = None
    late_layer: int | None = None
    early_scores: EarlyScores = "encoder"
    important_ratio: float = 0.5
    positions: Positions = "original"
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("method", self.method, get_args(Method))
        _one_of("early_scores", self.early_scores, get_args(EarlyScores))
        _one_of("positions", self.positions, get_args(Positions))
        for name in ("keep", "keep_least", "keep_most", "early_keep", "late_keep"):
            _check_amount(name, getattr(self, name))
        ratio = self.important_ratio
        _require(
            _is_number(ratio) and 0.0 <= ratio <= 1.0, f"important_ratio={quoted(ratio)}: give a share from 0.0 to 1.0"
        )
        layer = self.late_layer
        _require(layer is None or is_count(layer), f"late_layer={quoted(layer)}: give a layer number of 1 or more")
        _require(_is_seed(self.seed), f"seed={quoted(self.seed)}: give a whole number from 0 to 2**63 - 1")
        self._check_mass()
        self._check_fields_fit_method()

    def _check_mass(self) -> None:
        mass, least, most = self.keep_mass, self.keep_least, self.keep_most
        if mass is None:
            _require(
                least is None and most is None, "keep_least and keep_most bound keep_mass: give it, or leave them out"
            )
            return
        _require(_is_number(mass) and 0.0 < mass <= 1.0, f"keep_mass={quoted(mass)}: give a share above 0.0 up to 1.0")
        _require(
            self.early_keep is None and self.late_keep is None,
            "keep_mass sets both stages: leave out early_keep and late_keep",
        )
        if least is not None and type(least) is type(most):
            _require(least <= most, f"keep_least={least} is above keep_most={most}")

    def _check_fields_fit_method(self) -> None:
        if self.method == "none":
            message = f"method='none' keeps every token: leave out keep={quoted(self.keep)}, or choose a method"
            _require(self.keep is None, message)
            _require(self.keep_mass is None, "method='none' keeps every token: leave out keep_mass, or choose a method")
        elif self.keep_mass is not None:
            _require(self.keep is None, "give keep or keep_mass, not both")
        elif self.method != "star" or self.early_keep is None or self.late_keep is None:
            _require(self.keep is not None, f"method={quoted(self.method)} needs keep: a number of tokens or a share")
        else:
            _require(self.keep is None, "keep, early_keep and late_keep: give two of them, the third follows")
        for owner, name, unset in _METHOD_FIELDS:
            value = getattr(self, name)
            message = f"{name}={quoted(value)} belongs to method={owner!r}, not to {quoted(self.method)}"
            _require(self.method == owner or value == unset, message)


# (the one method that reads it, field, its value when not set)
_METHOD_FIELDS: tuple[tuple[Method, str, object], ...] = (
    ("star", "early_keep", None),
    ("star", "late_keep", None),
    ("star", "late_layer", None),
    ("star", "early_scores", "encoder"),
    ("vispruner", "important_ratio", 0.5),
    ("random", "seed", 0),
)


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

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        _require(is_count(self.max_new_tokens), f"max_new_tokens={quoted(self.max_new_tokens)}: give 1 or more")
        hot = self.temperature
        is_warm = _is_number(hot) and (hot == 0.0 or hot >= _LOWEST_TEMPERATURE)
        _require(is_warm, f"temperature={quoted(hot)}: give 0.0 (greedy), or {_LOWEST_TEMPERATURE} or more")
        _require(
            _is_number(self.top_p) and 0.0 < self.top_p <= 1.0, f"top_p={quoted(self.top_p)}: give a share up to 1.0"
        )
        _require(_is_seed(self.seed), f"seed={quoted(self.seed)}: give a whole number from 0 to 2**63 - 1")
        penalty = self.repetition_penalty
        is_penalty = penalty is None or (_is_number(penalty) and 0.0 < penalty <= _HIGHEST_PENALTY)
        _require(
            is_penalty,
            f"repetition_penalty={quoted(penalty)}: give a number above 0.0 up to {_HIGHEST_PENALTY}, such as 1.05",
        )
        is_list = isinstance(self.stop, tuple | list) and all(isinstance(stop, str) and stop for stop in self.stop)
        _require(is_list, f"stop={quoted(self.stop)}: give a list of strings, none of them empty")


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

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

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
            _require(is_count(value), f"{name}={quoted(value)}: give a whole number of 1 or more")
        for name in ("max_prefill_tokens", "vision_batch"):
            value = getattr(self, name)
            message = f"{name}={quoted(value)}: give a whole number of 1 or more, or leave it out"
            _require(value is None or is_count(value), message)
        memory = self.kv_memory_gib
        is_size = memory is None or (_is_number(memory) and 0.0 < memory <= _MOST_GIB)
        _require(is_size, f"kv_memory_gib={quoted(memory)}: give a size above 0.0 or leave it out")
        share = self.memory_share
        is_share = share is None or (_is_number(share) and 0.0 < share <= 1.0)
        _require(is_share, f"memory_share={quoted(share)}: give a share above 0.0 up to 1.0, or leave it out")
        _require(isinstance(self.share_prefix, bool), f"share_prefix={quoted(self.share_prefix)}: give true or false")
