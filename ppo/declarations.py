"""How an objective, an advantage estimator or a profile's switch says, once, what it is and what it needs.

All else follows from it: the fields of `config.Algo`, checks and refusals, which runs can share a pack, names of runs,
what a minibatch must carry, the tables of choices, and what traces and tests of switches try.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from ppo.refusals import choose, finite, positive, within_one

if TYPE_CHECKING:
    from ppo.config import RunConfig

Range = Literal["above 0", "at least 0", "0 to 1", "any"]


def check_range(name: str, value: float | None, range: Range) -> None:
    """Raise UserError for a value outside the range; `None` is in each of them."""
    if value is None:
        return
    if range == "0 to 1":
        within_one(name, value)
    elif range == "any":
        finite(name, value)
    else:
        positive(name, value, zero=range == "at least 0")


@dataclass(frozen=True)
class Setting:
    """A number that an objective or an estimator needs. `None` is "not set"; only `default` may stand in for it."""

    name: str
    meaning: str  # with its symbol in the paper and its unit
    range: Range
    type: type = float
    per_run: bool = False  # a number for each run of a pack; else one that the whole pack shares
    annealed: bool = False  # moves with profile.epsilon_schedule
    default: float | None = None  # read where nothing is set; a setting with one is never refused
    tries: tuple[float, ...] = ()  # values that must each teach something else: for traces and tests

    def check(self, value: float | None) -> None:
        """Raise UserError for a value outside the range."""
        check_range(f"algo.{self.name}", value, self.range)


@dataclass(frozen=True)
class Switch:
    """What the declaration of a profile's field says beside its name, type and default."""

    range: Range | None  # of a number
    choices: tuple[str, ...]  # of a word
    tries: tuple[Any, ...]  # values that must each teach something else: for traces and tests
    under: tuple[Mapping[str, Any], ...]  # other fields of the profile, under each of which `tries` do so
    per_run: bool  # a number for each run of a pack; else one that the whole pack shares
    group: str | None  # the heading under which this field and those after it stand in tables

    def check(self, name: str, value: Any) -> None:
        """Raise UserError for what is no choice, or outside the range."""
        if self.choices:
            choose(name, value, self.choices)
        if self.range is not None:
            check_range(name, value, self.range)


def switch(
    default: Any,
    range: Range | None = None,
    choices: tuple[str, ...] = (),
    tries: tuple[Any, ...] = (),
    under: tuple[Mapping[str, Any], ...] = ({},),
    per_run: bool = False,
    group: str | None = None,
) -> Any:
    """A field of a profile, declared. All choices are tried, and both truth values, where `tries` says nothing."""
    tries = tries or choices or ((False, True) if isinstance(default, bool) else ())
    return field(default=default, metadata={"switch": Switch(range, choices, tries, under, per_run, group)})


def switches(cls: type) -> dict[str, Switch]:
    """The declarations of a profile's fields, by name and in their order."""
    return {each.name: each.metadata["switch"] for each in fields(cls)}


@dataclass(frozen=True)
class Estimator:
    """An advantage estimator: its name in `algo.advantage`, its function and the settings it needs. The function's
    parameters are what it reads."""

    name: str
    function: Callable[..., Any]
    settings: tuple[Setting, ...] = ()


@dataclass(frozen=True)
class Objective:
    """An objective: its name in `algo.objective`, its function and the settings it needs.

    The function gives each sample's part of the surrogate, (R, B), to be maximised. Its parameters are what it reads:
    settings of its own by their names, (R, 1) each, and quantities of `losses.QUANTITIES`. A run meets no quantity that
    its objective does not read. `label` names the setting whose value stands in a run's name, such as clip_0.2.
    `adapt` gives the settings `adapts` of the next update, by name; its parameters are `kl`, this update's mean KL, and
    settings, (R, 1) each. `check` raises UserError for a run whose other settings do not go with the objective.
    An objective that no minibatch step maximises has no function here.
    """

    name: str
    function: Callable[..., Any] | None = None
    settings: tuple[Setting, ...] = ()
    label: str | None = None
    adapts: tuple[str, ...] = ()
    adapt: Callable[..., Mapping[str, Any]] | None = None
    check: Callable[["RunConfig"], None] | None = None
    reads: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads", parameters(self.function) if self.function else ())
        names = [setting.name for setting in self.settings]
        for what, said in (("label", self.label), *(("adapts", name) for name in self.adapts)):
            if said is not None and said not in names:
                raise TypeError(f"objective {self.name}: {what} {said} is none of its settings ({', '.join(names)})")

    @property
    def example(self) -> dict[str, float]:
        """A value of every setting to try it with. TypeError where a setting has none."""
        if without := [setting.name for setting in self.settings if not setting.tries]:
            raise TypeError(
                f"objective {self.name}: {', '.join(without)} has no tries=(…), two values that traces and tests use"
            )
        return {setting.name: setting.tries[0] for setting in self.settings}


@cache
def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a function's parameters: what it reads."""
    return tuple(inspect.signature(function).parameters)


def arguments(function: Callable[..., Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Of what is known, by name, what the function reads."""
    return {name: known[name] for name in parameters(function)}


def by_name(settings: Iterable[Setting]) -> dict[str, Setting]:
    """Settings by their names, in their order. TypeError where one name is declared in two ways."""
    found: dict[str, Setting] = {}
    for setting in settings:
        if found.setdefault(setting.name, setting) != setting:
            raise TypeError(f"the setting {setting.name} is declared in two ways; share one declaration, or rename one")
    return found


def refuse_taken(settings: Iterable[str], names: set[str]) -> None:
    """Raise TypeError for a setting whose name another field has: one of the two would be read for the other."""
    if both := sorted(names.intersection(settings)):
        raise TypeError(f"{', '.join(both)}: a field has this name already; give the setting another one")
