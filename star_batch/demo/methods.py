"""Which pruning methods are compared, and at which budgets: what was typed, as data. Knows no engine."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from star_batch.demo.scenes import NUM_PATCHES
from star_batch.errors import ConfigError
from star_batch.job_file import read_value
from star_batch.options import require
from star_batch.pruning import CONTROLS, METHODS, Pruning
from star_batch.pruning.plan import each_once
from star_batch.wording import quoted

KEEPS = (72, 36, 18)

_SET_ELSEWHERE = ("method", "keep", "keep_mass", "keep_least", "keep_most")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A method with options of its own, before it has a budget."""

    label: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def pruning(self, **budget: int | float | None) -> Pruning:
        """
        Raises:
            ConfigError: the method does not take these options, or not with this budget.
        """
        try:
            return Pruning(method=self.method, **budget, **self.options)
        except TypeError as error:  # of a method whose class does not check what it is given
            raise ConfigError(f"{self.label}: {error}") from None


def parse_method(text: str) -> Asked:
    """`star`, or with options behind colons and values as in YAML: `star:early_scores=features:late_layer=2`.

    Raises:
        ConfigError: the method is not known, or refuses an option.
    """
    method, *parts = (part.strip() for part in text.split(":"))
    options: dict[str, Any] = {}
    for part in parts:
        name, _, value = (each.strip() for each in part.partition("="))
        require(bool(name and value), f"--method {quoted(text)}: write options as in star:late_layer=2")
        require(name not in options, f"--method {quoted(text)}: {quoted(name)} is there twice")
        require(name not in _SET_ELSEWHERE, f"--method {quoted(text)}: {quoted(name)} is no option here; give --keep")
        options[name] = read_value(value, f"--method {method}:{name}")
    require(method != "none" or not options, f"--method {quoted(text)}: none keeps every token and has no options")
    asked = Asked(label=":".join([method, *parts]), method=method, options=options)
    asked.pruning(keep=None if method == "none" else 1.0)
    return asked


def every_method() -> list[Asked]:
    """All that are registered, those of plugins too, but the controls and those that have to be told something."""
    names = [name for name, options in METHODS.items() if all(map(_has_default, fields(options)))]
    return [Asked(label=name, method=name) for name in names if name not in CONTROLS]


def methods_of(typed: Iterable[str] | None) -> list[Asked]:
    """What is measured beside the controls: what was typed, each once, or every method.

    Raises:
        ConfigError: as in `parse_method`, or what was typed is empty.
    """
    if typed is None:
        return every_method()
    asked = {each.label: each for each in map(parse_method, typed)}
    require(bool(asked), "--method: give a method, or leave it out for every method")
    return [each for label, each in asked.items() if label not in CONTROLS]


def budgets_of(typed: Iterable[int | float] | None) -> tuple[int | float, ...]:
    """Each number of tokens once, in the order typed; a share may be the same number as another budget.

    Raises:
        ConfigError: there is none, or one is no budget or above what an image has.
    """
    keeps = each_once(KEEPS if typed is None else typed, NUM_PATCHES)
    require(bool(keeps), "--keep: give a number of visual tokens or a share, or leave it out")
    return keeps


def _has_default(option: Field[Any]) -> bool:
    return not option.init or option.default is not MISSING or option.default_factory is not MISSING
