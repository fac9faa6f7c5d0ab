"""From a Hydra config to typed runs, with one clear sentence for what does not fit."""

import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.tracking.settings import Tracking
from ppo.atari import SUFFIX
from ppo.config import Algo, Env, Profile, RunConfig
from ppo.refusals import UserError, near_matches

CONF = Path(__file__).parent.parent / "conf"


@dataclass(frozen=True)
class NamedRun:
    """A run and what people call it; names are not part of its identity."""

    config: RunConfig
    names: Mapping[str, str]


def build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """A config dataclass from plain values, each checked against its field's type."""
    known = {f.name for f in fields(cls)}
    for name in values:
        if name not in known:
            raise UserError(f"{where}{name} is not a setting{near_matches(name, sorted(known))}")
    hints = typing.get_type_hints(cls)
    return cls(**{name: fitted(f"{where}{name}", value, hints[name]) for name, value in values.items()})


def fitted(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type `hint`, or a refusal. 1e6 is a whole number, true is not a number, NaN is nothing."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = [h for h in typing.get_args(hint) if h is not types.NoneType]
    if typing.get_origin(hint) is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(fitted(name, item, typing.get_args(hint)[0]) for item in value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and not math.isfinite(value):
        raise UserError(f"{name}={value} is not a finite number; null switches a setting off")
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and value == int(value):
        return int(value)
    if hint in (str, bool) and isinstance(value, hint):
        return value
    wanted = {float: "a number", int: "a whole number", str: "a word", bool: "true or false"}.get(hint, "a list")
    raise UserError(f"{name}={value} should be {wanted}")


def seeds_of(cfg: DictConfig) -> list[int]:
    """The seeds asked for by `seed`, `seeds` or `num_seeds`."""
    if cfg.seeds is not None:
        if cfg.seed is not None or cfg.num_seeds is not None:
            raise UserError("seeds=[…] stands alone: leave out seed and num_seeds")
        if not OmegaConf.is_list(cfg.seeds):
            raise UserError(f"seeds={cfg.seeds} should be a list, such as seeds=[0,4,7]")
        seeds = [fitted("seeds", seed, int) for seed in cfg.seeds]
        if len(set(seeds)) < len(seeds) or not seeds:
            raise UserError(f"seeds={list(cfg.seeds)}: give each seed once, and at least one")
        return seeds
    first = 0 if cfg.seed is None else fitted("seed", cfg.seed, int)
    count = 1 if cfg.num_seeds is None else fitted("num_seeds", cfg.num_seeds, int)
    if count < 1:
        raise UserError(f"num_seeds={count} must be at least 1")
    return list(range(first, first + count))


def resolved_backend(backend: str, env_id: str) -> str:
    """`auto` is ALE for Atari, EnvPool where it has the task, else Gymnasium; anything else stays."""
    if backend != "auto":
        return backend
    if env_id.endswith(SUFFIX):
        return "ale"
    try:
        import envpool
    except ImportError as error:
        raise UserError(
            "EnvPool is not installed here; say backend=gymnasium (whose runs have their own ids)"
        ) from error
    return "envpool" if env_id in envpool.list_all_envs() else "gymnasium"


def runs_of(cfg: DictConfig, choices: Mapping[str, str]) -> list[NamedRun]:
    """One run per seed. `choices` are the names picked from conf/ for algo, profile and env."""
    try:
        plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    if missing := [group for group in ("algo", "profile", "env") if group not in plain]:
        raise UserError(f"{' and '.join(missing)} cannot be left out; choose one, such as {missing[0]}=…")
    env_id = plain["env"]["id"]
    common = {
        "algo": build(Algo, plain["algo"], "algo."),
        "profile": build(Profile, plain["profile"], "profile."),
        "env": build(Env, {name: value for name, value in plain["env"].items() if name != "version"}, "env."),
        "backend": resolved_backend(fitted("backend", plain["backend"], str), env_id),
        "numerics": fitted("numerics", plain["numerics"], str),
        "device": fitted("device", plain["device"], str),
        "env_steps": fitted("env_steps", plain["env_steps"], int),
    }
    names = {group: choices[group] for group in ("algo", "profile", "env")}
    return [NamedRun(RunConfig(seed=seed, **common), names) for seed in seeds_of(cfg)]


@cache
def layers(main: str) -> list[DictConfig]:
    """conf/`main`.yaml and the files beside it that it starts from."""
    own: Any = OmegaConf.load(CONF / f"{main}.yaml")
    below = [name for name in own.defaults if isinstance(name, str) and name != "_self_"]
    return [own, *(layer for name in below for layer in layers(name))]


def groups_of(main: str) -> list[str]:
    """The folders of conf/ from which conf/`main`.yaml chooses."""
    choices = [choice for layer in layers(main) for choice in layer.defaults if isinstance(choice, DictConfig)]
    return [str(group) for choice in choices for group in choice if not str(group).startswith("override ")]


@cache
def known_keys(main: str) -> list[str]:
    """Every key that may stand on the command line of the command that conf/`main`.yaml configures."""
    typed: dict[str, type] = {"algo": Algo, "profile": Profile, "env": Env, "tracking": Tracking}
    keys = [str(key) for layer in layers(main) for key in layer if key not in ("defaults", "hydra")]
    for group in groups_of(main):
        if group in typed:
            keys += [group, *(f"{group}.{f.name}" for f in fields(typed[group]))]
        else:
            keys += [
                group,
                *(f"{group}.{key!s}" for path in CONF.glob(f"{group}/*.yaml") for key in OmegaConf.load(path)),
            ]
    return sorted({*keys, "env.version"})


def key_of(override: str) -> str:
    """algo.epsilon of algo.epsilon=0.1, with whatever Hydra allows before it."""
    return override.lstrip("+~").partition("=")[0]


def settings_of(group: str, arguments: Sequence[str]) -> list[str]:
    """The keys of the algo or env that `arguments` choose: all there are, where the file of it is not ours."""
    chosen = [argument.partition("=")[2] for argument in arguments if key_of(argument) == group]
    choices = OmegaConf.load(CONF / "config.yaml").defaults
    default = next(str(choice[group]) for choice in choices if group in choice)
    path = CONF / group / f"{chosen[-1] if chosen else default}.yaml"
    if not path.exists():
        return [key.removeprefix(f"{group}.") for key in known_keys("config") if key.startswith(f"{group}.")]
    values: Any = OmegaConf.to_container(OmegaConf.load(path))
    return [str(name) for name in values.get(group, values) if name != "defaults"]


def choices_in(group: Path) -> list[str]:
    """The names that may be chosen from a folder of conf/, such as hopper or atari/pong."""
    names = [path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml")]
    return [name for name in names if not name.endswith("/settings")]


def check_arguments(arguments: Sequence[str], main: str = "config") -> None:
    """Refuse, in one sentence and with near matches, what Hydra would refuse in several: unknown choices and keys."""
    asked, rest = get_args_parser().parse_known_args(arguments)
    if asked.multirun:
        raise UserError(
            "-m would train one run after another; seeds=[0,1,2] or num_seeds=3 train together as one pack, "
            "and python -m experiments.study trains a whole grid"
        )
    if rest:
        raise UserError(f"{' '.join(rest)} is not understood; options stand before or after all key=value, not between")
    folders = [CONF, *([Path(asked.config_dir)] if asked.config_dir else [])]
    for argument in asked.overrides:
        check_grammar(argument)
        key, (_, equals, choice) = key_of(argument), argument.partition("=")
        if key in groups_of(main) and equals:
            known = sorted({name for folder in folders for name in choices_in(folder / key)})
            if choice not in known:
                hint = near_matches(choice, known) or f"; choose one of {', '.join(known)}"
                raise UserError(f"{argument}: there is no such {key}{hint}")
        if equals and not key.startswith("hydra") and key not in (known := known_keys(main)):
            raise UserError(f"{argument}: {key} is not a setting{near_matches(key, known)}")
        group, _, name = key.partition(".")
        if (key.startswith("algo.") or key == "env.version") and name not in (own := settings_of(group, arguments)):
            raise UserError(f"{argument}: this {group} has no such setting; it has {', '.join(own)}")


def check_grammar(argument: str) -> None:
    """Refuse what Hydra does not read as one value of one key."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        raise UserError(
            f"{argument} is not key=value as Hydra reads it; quote odd values twice: \"records='…'\""
        ) from error
    if override.is_sweep_override():
        raise UserError(
            f"{argument} is several values to Hydra; a list has brackets, such as seeds=[0,1,2], and one value with a "
            "comma is quoted twice: \"records='…'\""
        )
