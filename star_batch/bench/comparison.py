"""What is compared, as plain data that is refused at birth if it cannot be. Knows no model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from star_batch.bench.shapes import shape_named
from star_batch.errors import ConfigError
from star_batch.options import Dtype, EngineOptions, is_count
from star_batch.pruning import CONTROLS, METHODS, Pruning
from star_batch.pruning.plan import each_once


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One comparison. Either `model` (a checkpoint) or `shape` (a name, random weights).

    `methods` are measured at each of `keeps` (None: a ninth and a third of the image's tokens), beside `generate` in
    batches of `generate_batches` and the controls: `none`, and where there are methods also `random` and `stride`.
    Every answer has exactly `answer_tokens` tokens, one run for each number; `free_tokens` is the limit where answers
    end by themselves, for accuracy.
    Random requests have `prompt_words` (least, most) words, and before the image the same `system_words`, which our
    engine runs once for all unless `share_prefix` is off; `input` names a Parquet file to read instead.
    `warm_up` requests are answered before the clock starts (None: all on CUDA, where kernels and graphs
    are made then; a few on CPU). `max_rows` decode slots (None: the engine's default, at most all requests).

    Raises:
        ConfigError: a value is out of range, or a name is not known.
    """

    model: str | None = None
    shape: str | None = None
    methods: tuple[str, ...] = ("star", "vispruner")
    keeps: tuple[int | float, ...] | None = None
    answer_tokens: tuple[int, ...] = (3, 20, 60)
    generate_batches: tuple[int, ...] = (1, 16, 32)
    requests: int = 64
    prompt_words: tuple[int, int] = (8, 48)
    system_words: int = 0
    share_prefix: bool = True
    input: Path | None = None
    prompt_column: str = "question"
    reference_column: str | None = None
    free_tokens: int = 32
    rounds: int = 3
    warm_up: int | None = None
    dtype: Dtype = "auto"
    device: str = "auto"
    max_rows: int | None = None
    kv_memory_gib: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.model is None) == (self.shape is None):
            raise ConfigError("give either a model (a checkpoint, or demo) or a shape")
        if self.shape is not None:
            shape_named(self.shape)
        if self.dtype not in get_args(Dtype):
            raise ConfigError(f"dtype={self.dtype!r} is not known; choose one of {', '.join(get_args(Dtype))}")
        for name in ("requests", "rounds", "free_tokens"):
            _check_count(name, getattr(self, name))
        for name in ("answer_tokens", "generate_batches", "prompt_words"):
            for value in getattr(self, name):
                _check_count(name, value)
        for name in ("answer_tokens", "generate_batches"):
            _check_once(name, getattr(self, name))
        if self.keeps is not None and not self.keeps:
            raise ConfigError("keeps: give at least one, or leave them out")
        if self.warm_up is not None and self.warm_up < 0:
            raise ConfigError(f"warm_up={self.warm_up}: give 0 or more")
        self._check_system_words()
        if not self.answer_tokens:
            raise ConfigError("answer_tokens: give at least one length")
        least, most = self.prompt_words
        if least > most:
            raise ConfigError(f"prompt_words={least}:{most}: the least is above the most")
        self._check_batches()
        self._check_methods()
        self.engine_options(self.requests)

    def _check_system_words(self) -> None:
        if self.system_words < 0:
            raise ConfigError(f"system_words={self.system_words}: give 0 or more")
        if self.system_words and not self.is_random:
            raise ConfigError("system_words go before random prompts: leave out input, and the model demo")

    def _check_batches(self) -> None:
        for batch in self.generate_batches:
            if batch > self.requests:
                raise ConfigError(f"generate_batches={batch} needs as many requests; there are {self.requests}")

    def _check_methods(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                raise ConfigError(f"method {method!r} is not known; choose from {', '.join(METHODS)}")
            if method == "none":
                raise ConfigError("methods: none is always measured; leave it out")

    @property
    def is_random(self) -> bool:
        """Whether images and prompts are drawn, not read."""
        return self.input is None and self.model != "demo"

    def prunings(self, num_visual: int) -> list[Pruning]:
        """`none`, then every control and every method at every keep, for images of `num_visual` tokens.

        Raises:
            ConfigError: a keep is out of range or above what an image has.
        """
        keeps = self.keeps if self.keeps is not None else (round(num_visual / 9), round(num_visual / 3))
        _, *controls = CONTROLS
        methods = dict.fromkeys((*controls, *self.methods)) if self.methods else ()
        return [Pruning(), *(_pruning(method, keep) for method in methods for keep in each_once(keeps, num_visual))]

    def engine_options(self, num_requests: int) -> EngineOptions:
        """The same for every pruning, so that nothing but the pruning differs."""
        options = EngineOptions(kv_memory_gib=self.kv_memory_gib, share_prefix=self.share_prefix)
        rows = self.max_rows if self.max_rows is not None else min(options.max_rows, num_requests)
        return replace(options, max_rows=rows)


def _pruning(method: str, keep: int | float) -> Pruning:
    return Pruning(method=method, keep=keep)


def _check_once(name: str, values: Sequence[int]) -> None:
    if len(set(values)) < len(values):
        raise ConfigError(f"{name}={','.join(map(str, values))}: give each number once")


def _check_count(name: str, value: object) -> None:
    if not is_count(value):
        raise ConfigError(f"{name}={value!r}: give a whole number of 1 or more")
