"""lmms-eval's `--model_args` as options of an engine, refused before a model is loaded. Knows no request."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self, get_args

from star_batch.errors import ConfigError
from star_batch.options import Decoding, Dtype, EngineOptions, one_of, require
from star_batch.pruning import Pruning, field_names
from star_batch.wording import printable, quoted

if TYPE_CHECKING:
    from star_batch.engine import Engine

_LONGEST_ANSWER = 1024  # as most models of lmms-eval have it, for tasks that do not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """An engine, and how many tokens an answer has at most where a task does not say.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    model: str
    revision: str | None = None
    dtype: Dtype = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    max_new_tokens: int = _LONGEST_ANSWER
    pruning: Pruning
    options: EngineOptions

    def __post_init__(self) -> None:
        for name in ("model", "revision", "device"):
            value = getattr(self, name)
            is_text = isinstance(value, str) or (value is None and name == "revision")
            # lmms-eval reads what looks like a number as one; its zeros in front are lost by then.
            require(is_text, f"{name}={quoted(value)}: lmms-eval read it as {type(value).__name__}; give text")
        one_of("dtype", self.dtype, get_args(Dtype))
        trust = self.trust_remote_code
        require(isinstance(trust, bool), f"trust_remote_code={quoted(trust)}: give true or false")
        Decoding(max_new_tokens=self.max_new_tokens)

    @classmethod
    def of_arguments(cls, arguments: Mapping[str, object]) -> Self:
        """From the names and values of `--model_args`: those of `Settings`, `Pruning` and `EngineOptions`, in one row.

        Raises:
            ConfigError: `model` is missing, a name is not known, or a value is wrong.
        """
        sections = {"pruning": field_names(), "options": [field.name for field in fields(EngineOptions)]}
        own = [field.name for field in fields(cls) if field.name not in sections]
        known = [*own, *(name for names in sections.values() for name in names)]
        for name in arguments:
            require(name in known, f"model_args: {printable(name)} is not known; choose from {', '.join(known)}")
        if "model" not in arguments:
            raise ConfigError("model_args: give model=..., a hub id, a local folder, or demo")
        parts = {key: _chosen(arguments, names) for key, names in {"own": own, **sections}.items()}
        pruning, options = Pruning(**parts["pruning"]), EngineOptions(**parts["options"])  # type: ignore[arg-type]
        return cls(**parts["own"], pruning=pruning, options=options)  # type: ignore[arg-type]

    def load(self) -> "Engine":
        """Raises:
        ModelError: the checkpoint cannot be loaded, or there is no such device.
        ConfigError: the pruning does not fit the model's depth.
        """
        # Here, so that arguments can be refused without waiting for torch.
        from star_batch.engine import Engine

        return Engine.from_pretrained(
            self.model,
            pruning=self.pruning,
            revision=self.revision,
            dtype=self.dtype,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
            options=self.options,
        )


def _chosen(arguments: Mapping[str, object], names: list[str]) -> dict[str, object]:
    return {name: value for name, value in arguments.items() if name in names}
