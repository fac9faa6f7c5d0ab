"""From a Hydra config to typed runs, with one clear sentence for what does not fit."""

import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.choices import keys_set, names_in, path_of, read
from experiments.identity import installed
from experiments.tracking.settings import Tracking
from ppo.atari import SUFFIX
from ppo.config import SETTINGS, Algo, Env, Profile, RunConfig
from ppo.learners import OBJECTIVES
from ppo.refusals import UserError, near_matches

HERE = Path(__file__).parent
CONF = (HERE if (HERE / "conf").is_dir() else HERE.parent) / "conf"
"""The folder of all choices: an installed wheel has it inside this package, a checkout beside it."""

NEUTRAL = "neutral"
"""What config.yaml and benchmark.yaml start from: a profile with every field at its default, an algorithm with every
setting at its default, mostly null. Files of conf/profile and conf/algo set only what their source says or what their
objective needs; Hydra takes profile.x=… and algo.x=… for all others too."""
UNSET = {"profile": asdict(Profile()), "algo": {name: setting.default for name, setting in SETTINGS.items()}}
ConfigStore.instance().store(NEUTRAL, UNSET)


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
        if isinstance(value, float) and abs(value) >= 2**53:
            raise UserError(
                f"{name}={value}: so many digits cannot be told from their neighbours; write it without a dot"
            )
        return int(value)
    if hint in (str, bool) and isinstance(value, hint):
        return value
    wanted = {float: "a number", int: "a whole number", str: "a word", bool: "true or false"}.get(hint, "a list")
    raise UserError(f"{name}={value} should be {wanted}")


def folder_of(name: str, value: Any) -> Path:
    """A folder as it was typed. A shell puts the home folder for ~; what it left, a program should not guess at."""
    said = fitted(name, value, str)
    if not said or said.startswith("~"):
        raise UserError(f"{name}={said}: write the whole path of a folder" + (", without ~" if said else ""))
    return Path(said)


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


def one_line(error: BaseException) -> str:
    """An error's kind and first line."""
    return f"{type(error).__name__}: {error}".strip(": ").partition("\n")[0]


def resolved_backend(backend: str, env_id: str) -> str:
    """`auto` is ALE for Atari, EnvPool where it has the task, else Gymnasium; anything else stays."""
    if backend != "auto":
        return backend
    if env_id.endswith(SUFFIX):
        return "ale"
    try:
        import envpool
    except (ImportError, MemoryError, OSError) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "envpool"
        cause = "is not installed here" if missing else f"cannot be loaded here ({one_line(error)})"
        raise UserError(f"EnvPool {cause}; say backend=gymnasium (whose runs have their own ids)") from error
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
    below = [name for name in own.defaults if isinstance(name, str) and name not in ("_self_", NEUTRAL)]
    return [own, *(layer for name in below for layer in layers(name))]


def defaults_of(main: str) -> dict[str, str | None]:
    """The folders of conf/ from which conf/`main`.yaml chooses, and what it chooses where nothing is said."""
    choices = [choice for layer in layers(main) for choice in layer.defaults if isinstance(choice, DictConfig)]
    pairs = [(str(group), name) for choice in choices for group, name in choice.items()]
    return {group: name for group, name in pairs if not group.startswith("override ")}


@cache
def known_keys(main: str) -> list[str]:
    """Every key that may stand on the command line of the command that conf/`main`.yaml configures."""
    typed: dict[str, type] = {"algo": Algo, "profile": Profile, "env": Env, "tracking": Tracking}
    keys = [str(key) for layer in layers(main) for key in layer if key not in ("defaults", "hydra")]
    for group in defaults_of(main):
        if group in typed:
            keys += [group, *(f"{group}.{f.name}" for f in fields(typed[group]))]
        elif group == "study":
            keys += [group, *(f"{group}.{part}" for part in STUDY_PARTS)]
        else:
            files = [CONF / group / f"{name}.yaml" for name in names_in(CONF / group)]
            keys += [group, *(f"{group}.{key}" for path in files for key in read(path))]
    return sorted({*keys, "env.version"})


def key_of(override: str) -> str:
    """algo.epsilon of algo.epsilon=0.1, with whatever Hydra allows before it."""
    return override.lstrip("+~").partition("=")[0]


def settings_of(group: str, arguments: Sequence[str]) -> list[str]:
    """The keys of the algo or env that `arguments` choose: all there are, where the file of it is not ours."""
    chosen = [argument.partition("=")[2] for argument in arguments if key_of(argument) == group]
    name = chosen[-1] if chosen else str(defaults_of("config")[group])
    keys = keys_set(group, name, [CONF]) or dict.fromkeys(known_keys("config"))
    names = [key.removeprefix(f"{group}.") for key in keys if key.startswith(f"{group}.")]
    declared = OBJECTIVES.get(str(keys.get("algo.objective")))
    return list(dict.fromkeys([*names, *(each.name for each in declared.settings)] if declared else names))


def own_folder(arguments: Sequence[str]) -> Path | None:
    """The folder of a user's own configs that a command line names, in full."""
    said = get_args_parser().parse_known_args(arguments)[0].config_dir
    if said is None:
        return None
    if not Path(said).is_dir():
        raise UserError(f"--config-dir={said}: there is no such folder")
    return Path(said).resolve()


def check_arguments(arguments: Sequence[str], main: str = "config", own: Path | None = None) -> None:
    """Refuse, in one sentence and with near matches, what Hydra would refuse in several: unknown choices and keys.

    `own` is the folder of a user's own configs, if `arguments` do not name it themselves.
    """
    asked, rest = get_args_parser().parse_known_args(arguments)
    if asked.multirun:
        raise UserError(
            "-m would train one run after another; seeds=[0,1,2] or num_seeds=3 train together as one pack, "
            "and python -m experiments.study trains a whole grid"
        )
    if rest:
        raise UserError(f"{' '.join(rest)} is not understood; options stand before or after all key=value, not between")
    if asked.config_path or asked.config_name:
        raise UserError("--config-path and --config-name are not for this command; --config-dir adds files of your own")
    own = own_folder(arguments) or own
    folders = [CONF, *([own] if own else [])]
    groups = defaults_of(main)
    for argument in asked.overrides:
        check_grammar(argument)
        key, (_, equals, choice) = key_of(argument), argument.partition("=")
        if key in groups and equals:
            path = path_of(key, choice, folders)
            known = sorted({name for folder in folders for name in names_in(folder / key)})
            if path is None or choice not in known:
                hint = brought(key, choice, known) or near_matches(choice, known)
                raise UserError(f"{argument}: there is no such {key}{hint or '; choose one of ' + ', '.join(known)}")
            read(path)
        if equals and not key.startswith("hydra") and key not in (known := known_keys(main)):
            hint = f"; it is called {WORDS[key]} here" if key in WORDS else near_matches(key, known)
            raise UserError(f"{argument}: {key} is not a setting{hint}")
        group, _, name = key.partition(".")
        if main == "launch" or not (key.startswith("algo.") or key == "env.version"):
            continue  # a study's variants and environments are checked one by one
        if name not in (settings := settings_of(group, asked.overrides)):
            raise UserError(f"{argument}: this {group} has no such setting; it has {', '.join(settings)}")
    for group, default in groups.items():
        if default is not None:
            path_of(group, default, folders)


WORDS = {
    "lr": "profile.stepsize",
    "learning_rate": "profile.stepsize",
    "total_timesteps": "env_steps",
    "timesteps": "env_steps",
    "total_steps": "env_steps",
    "steps": "env_steps",
    "num_steps": "profile.horizon",
    "n_steps": "profile.horizon",
    "n_envs": "profile.actors",
    "num_envs": "profile.actors",
    "batch_size": "profile.minibatch_size",
    "minibatch_size": "profile.minibatch_size",
    "n_epochs": "profile.epochs",
    "num_epochs": "profile.epochs",
    "update_epochs": "profile.epochs",
    "clip_range": "algo.epsilon",
    "clip_coef": "algo.epsilon",
    "clip_param": "algo.epsilon",
    "epsilon": "algo.epsilon",
    "target_kl": "algo.kl_target",
    "gae_lambda": "algo.gae_lambda",
    "lam": "algo.gae_lambda",
    "gamma": "profile.gamma",
    "ent_coef": "profile.entropy_coef",
    "vf_coef": "profile.value_coef",
    "max_grad_norm": "profile.max_grad_norm",
    "env_id": "env",
    "task": "env",
    "out": "records",
    "n_seeds": "num_seeds",
}
"""Other libraries' words for our keys."""

STUDY_PARTS = ("environments", "settings", "bases", "variants", "alone", "seeds", "env_steps", "profile",
               "tables", "figures")  # fmt: skip
"""What a file of conf/study may say; see experiments.grammar."""


def brought(group: str, choice: str, known: Sequence[str]) -> str:
    """Our name of a choice that is called otherwise elsewhere: env=HalfCheetah-v4, env=pong, algo=ppo."""
    if group == "algo" and choice.lower() in ("ppo", "ppo2", "ppo_clip"):
        return "; PPO is algo=clip, or algo=kl_adaptive with a penalty instead"
    if group != "env":
        return ""
    same = [name for name in known if bare(name) == bare(choice)]
    if not same:
        return "; a task of your own is a file conf/env/NAME.yaml, or env=cartpole env.id=…" if "-v" in choice else ""
    version = re.search(r"-(v\d+)$", choice)
    several = version and version[1] != "v4" and "version" in settings_of("env", [f"env={same[0]}"])
    return f"; say env={same[0]}" + (f" env.version={version[1]}" if version and several else "")


def bare(task: str) -> str:
    """The name of a task without what libraries put around it: halfcheetah, mspacman."""
    name = re.sub(r"(noframeskip|deterministic)?-v\d+$", "", task.lower().rpartition("/")[2])
    return re.sub(r"[^a-z0-9]", "", name)


def check_first(arguments: Sequence[str], bare: str = "") -> None:
    """Answer --version. Where nothing at all is said, `bare` tells what to say; nothing expensive starts by itself."""
    if "--version" in arguments:
        print(installed())
        raise SystemExit(0)
    if bare and not arguments:
        raise UserError(bare)


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
