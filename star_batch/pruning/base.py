"""What the options of every method share, and how `Pruning(method=...)` finds the method's own class. Knows no method.

Without torch, so that a job can be checked where there is none; the files of the methods keep to that, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, Self, get_args

from star_batch.errors import ConfigError
from star_batch.options import STRICT, Positions, check_amount, is_number, one_of, require
from star_batch.plugins import Registry
from star_batch.pruning.plan import EarlySelect, LateStep, MassBudget, PruningPlan, Schedule, resolve, throughout
from star_batch.pruning.reading import read_by
from star_batch.wording import quoted

METHODS: Registry[type[Pruning]] = Registry("pruning method")
"""The options class of each method; whoever asks for a name that is not ours loads the plugins."""


def register_method(options: type[Pruning]) -> None:
    """Makes a method known by the name that its `method` field has.

    Raises:
        ConfigError: the name is taken, or the class is none of a method's options.
    """
    if not isinstance(options, type) or not issubclass(options, Pruning) or options is Pruning:
        raise ConfigError(f"{options!r} is no pruning method: give a subclass of Pruning")
    METHODS.register(_name_of(options), options)


class _ByMethod(type):
    """`Pruning(method="star", ...)` is what `StarPruning(...)` is, and so is a replaced `method`."""

    def __call__(cls: Any, **given: Any) -> Any:
        options = _class_for(cls, given.get("method", _name_of(cls)))
        fitting = own_fields(options, given)
        for name in fitting.keys() - _names(options):
            has = f"method={_name_of(options)!r} has {', '.join(_names(options))}"
            raise ConfigError(f"{name}={quoted(fitting[name])} is not known; {has}")
        return type.__call__(options, **fitting)


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Pruning(metaclass=_ByMethod):
    """How many visual tokens to keep, and which: `Pruning(method="star", keep=64)` is a `StarPruning`.

    `keep` is the mean over decoder layers of the visual tokens that a layer sees, as a number (int)
    or as a share of the image's tokens (float in (0, 1]), so that methods compare at equal cost.
    `None` keeps everything. Each method turns it into a schedule of its own, and may have more fields.

    With `keep_mass` instead of `keep` the number follows the image: the fewest tokens whose received attention
    adds up to that share, at least `keep_least` and at most `keep_most` (numbers or shares).

    A new method is a frozen dataclass of this kind in a file of its own: a `method` with its name as the default,
    the fields that only it has, `check` for these, and `plan`.

    Raises:
        ConfigError: a value is out of range, or the method has no use for a field that is set.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    method: str = "none"
    keep: int | float | None = None
    keep_mass: float | None = None
    keep_least: int | float | None = None
    keep_most: int | float | None = None
    positions: Positions = "original"

    def __new__(cls, **fields: Any) -> Self:
        """Any fields, to whoever checks types: which there are depends on the method."""
        return object.__new__(cls)

    def __post_init__(self) -> None:
        one_of("positions", self.positions, get_args(Positions))
        for name in ("keep", "keep_least", "keep_most"):
            check_amount(name, getattr(self, name))
        self.check()
        self._check_mass()
        self.check_budget()

    def check(self) -> None:
        """Refuses values of the method's own fields.

        Raises:
            ConfigError: one is out of range; the message begins with the field, `late_layer=0: ...`.
        """

    def check_budget(self) -> None:
        """That the budget is given, once.

        Raises:
            ConfigError: it is not.
        """
        if self.keep_mass is not None:
            require(self.keep is None, "give keep or keep_mass, not both")
        else:
            require(self.keep is not None, f"method={quoted(self.method)} needs keep: a number of tokens or a share")

    def _check_mass(self) -> None:
        mass, least, most = self.keep_mass, self.keep_least, self.keep_most
        if mass is None:
            message = "keep_least and keep_most bound keep_mass: give it, or leave them out"
            require(least is None and most is None, message)
            return
        require(is_number(mass) and 0.0 < mass <= 1.0, f"keep_mass={quoted(mass)}: give a share above 0.0 up to 1.0")
        if least is not None and type(least) is type(most):
            require(least <= most, f"keep_least={least} is above keep_most={most}")

    @property
    def budget(self) -> MassBudget | None:
        """The budget that `keep_mass` asks for, if it is set."""
        if self.keep_mass is None:
            return None
        least = self.keep_least if self.keep_least is not None else 1
        most = self.keep_most if self.keep_most is not None else 1.0
        return MassBudget(mass=self.keep_mass, least=least, most=most)

    def plan(self, num_layers: int) -> PruningPlan:
        """Which tokens go when, in a decoder of `num_layers` layers.

        Raises:
            ConfigError: the options do not fit such a decoder.
        """
        raise NotImplementedError

    def planned(
        self,
        num_layers: int,
        *,
        schedule: Schedule = throughout,
        early: EarlySelect | None = None,
        late: tuple[LateStep, ...] = (),
        is_per_record: bool = False,
        reads_prompt: bool = False,
    ) -> PruningPlan:
        """A plan with these parts and what all methods share; without late steps every layer sees the same."""
        return PruningPlan(
            num_layers=num_layers,
            schedule=schedule,
            keep=self.keep,
            budget=self.budget,
            early=early,
            late=late,
            positions=self.positions,
            is_per_record=is_per_record,
            reads_prompt=reads_prompt,
        )

    def check_plan(self, plan: PruningPlan, num_visual: int) -> None:
        """That the plan keeps what was asked for, of an image of `num_visual` tokens.

        Raises:
            ConfigError: it cannot.
        """
        mean, keep = plan.layer_mean(num_visual), self.keep
        if keep is not None and abs(mean - resolve(keep, num_visual)) > 1:
            message = f"keep={keep} cannot be met{self.because}: "
            raise ConfigError(f"{message}layers would see {mean:g} of {num_visual} tokens on average")

    @property
    def because(self) -> str:
        """What stands in the way of `keep`, as the end of a sentence."""
        return ""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Read by pydantic where this class is a field of a configuration."""
        return read_by(Pruning, METHODS, own_fields) if source is Pruning else handler(source)


def _class_for(cls: type[Pruning], method: object) -> type[Pruning]:
    if cls is not Pruning and method == _name_of(cls):
        return cls  # registered or not
    if not isinstance(method, str) or method not in METHODS:
        raise ConfigError(f"method={quoted(method)} is not known; choose one of {', '.join(METHODS)}")
    return METHODS[method]


def own_fields(options: type[Pruning], given: Mapping[str, Any]) -> dict[str, Any]:
    """Without what belongs to other methods, if it says nothing; a name that nobody knows stays.

    Raises:
        ConfigError: a field of another method is set.
    """
    return {name: value for name, value in given.items() if not _is_foreign(options, name, value)}


def _is_foreign(options: type[Pruning], name: str, value: object) -> bool:
    if name in _names(options):
        return False
    owners = [owner for owner in METHODS.values() if name in _names(owner)]
    if owners and all(value != _default(owner, name) for owner in owners):
        belongs = " or ".join(f"method={_name_of(owner)!r}" for owner in owners)
        raise ConfigError(f"{name}={quoted(value)} belongs to {belongs}, not to {_name_of(options)!r}")
    return bool(owners)


def field_names() -> list[str]:
    """All fields that a section `pruning` may have: what all methods share, then what each has of its own."""
    classes: list[type[Pruning]] = [Pruning, *METHODS.values()]
    return list(dict.fromkeys(name for options in classes for name in _names(options)))


def _names(options: type[Pruning]) -> list[str]:
    return [field.name for field in fields(options)]


def _default(options: type[Pruning], name: str) -> object:
    return next(field.default for field in fields(options) if field.name == name)


def _name_of(options: type[Pruning]) -> str:
    name = _default(options, "method")
    return "" if name is MISSING else str(name)
