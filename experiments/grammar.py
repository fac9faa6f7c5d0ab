"""A study's file, read: variants × environments × seeds, a budget, and what its variants set.

    settings: [profile.standardise=none]                # of every variant, or left out
    bases:                                              # or left out
      filter: []
      no_filter: [profile.observation_filter=none]
    variants:                                           # with bases: filter/unconstrained, … no_filter/clip_0.2
      unconstrained: [algo=unconstrained]
      clip_0.2: [algo=clip, algo.epsilon=0.2]
    alone:                                              # variants without `settings` and bases, or left out
      random: [algo=random, env_steps=204_800]

The variants stand in this order: those of a base together, `alone` last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.choices import keys_set
from experiments.compose import CONF, STUDY_PARTS, check_grammar, fitted, key_of
from ppo.refusals import UserError, near_matches

LAUNCH_KEYS = ("study", "cluster", "tracking", "name", "variants", "environments", "dry_run", "retry", "extend",
               "parts", "records", "checkpoint_seconds")  # fmt: skip
"""Of the command line: they say where and how, the others what."""

Settings = tuple[str, ...]
"""Overrides, such as ("algo=clip", "algo.epsilon=0.2")."""


@dataclass(frozen=True)
class Study:
    """conf/study: a named grid of runs, and the tables and figures made from it."""

    environments: tuple[str, ...]
    variants: Mapping[str, Settings]  # by name, with what their bases set
    seeds: tuple[int, ...]
    env_steps: int
    profile: str | None = None
    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()


def study_of(cfg: DictConfig, own: Path | None = None) -> Study:
    """The study asked for, cut down to the variants and environments chosen.

    `own` is the folder of a user's own configs.
    """
    try:
        plain: Any = OmegaConf.to_container(cfg.study, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"study: {str(error).splitlines()[0]}") from error
    if not isinstance(plain, dict):
        raise UserError("a study needs variants, environments, seeds and env_steps")
    for name in plain:
        if name not in STUDY_PARTS:
            raise UserError(f"study.{name} is not a part of a study{near_matches(str(name), STUDY_PARTS)}")
    for name in ("environments", "variants", "seeds", "env_steps"):
        if not plain.get(name):
            raise UserError(f"study.{name} is not set; a study needs variants, environments, seeds and env_steps")
    variants = variants_of(plain, [CONF, *([own] if own else [])])
    environments = words("environments", plain["environments"])
    chosen = picked("variants", cfg.variants, list(variants))
    return Study(
        environments=picked("environments", cfg.environments, environments),
        variants={name: variants[name] for name in chosen},
        seeds=distinct("study.seeds", [fitted("study.seeds", seed, int) for seed in a_list("seeds", plain["seeds"])]),
        env_steps=fitted("study.env_steps", plain["env_steps"], int),
        profile=None if plain.get("profile") is None else fitted("study.profile", plain["profile"], str),
        tables=words("tables", plain.get("tables") or []),
        figures=words("figures", plain.get("figures") or []),
    )


def variants_of(plain: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, Settings]:
    """What each variant sets in all: `settings`, its base and its own lines, or one line of `alone`."""
    common = {"study.settings": settings_in("study.settings", plain["settings"])} if "settings" in plain else {}
    bases = named("bases", plain["bases"]) if "bases" in plain else {"": ()}
    alone = named("alone", plain["alone"]) if "alone" in plain else {}
    names, variants = [], {}
    for (base, of_base), (variant, own) in product(bases.items(), named("variants", plain["variants"]).items()):
        names.append(f"{base}/{variant}" if base else variant)
        parts = common | ({f"study.bases.{base}": of_base} if base else {}) | {f"study.variants.{variant}": own}
        refuse_overlap(parts, folders)
        variants[names[-1]] = tuple(setting for settings in parts.values() for setting in settings)
    distinct("the study's variants", [*names, *alone])
    return variants | alone


def refuse_overlap(parts: Mapping[str, Settings], folders: Sequence[Path]) -> None:
    """Refuse a variant whose parts, common ones first, set one key twice.

    The file of an algo counts too where a part before it sets the key: that would change the algorithm in silence.
    """
    for (one, ours), (other, theirs) in combinations(parts.items(), 2):
        nearer = {key_of(setting): setting for setting in theirs}
        algo = nearer.get("algo", "")
        by_file = keys_set("algo", algo.partition("=")[2], folders) if algo else {}
        nearer = {key: f"{algo}, whose file has it" for key in by_file if not key.startswith("algo.")} | nearer
        for setting in ours:
            if (key := key_of(setting)) in nearer:
                raise UserError(f"{one} ({setting}) and {other} ({nearer[key]}) both set {key}; let one of them set it")


def named(part: str, value: Any) -> dict[str, Settings]:
    """What each name of a study's `bases`, `variants` or `alone` sets."""
    if not isinstance(value, dict) or not value:
        one = {"bases": "base"}.get(part, "variant")
        raise UserError(f"study.{part} should name what each {one} sets, such as clip_0.2: [algo=clip]")
    return {name_of(part, name): settings_in(f"study.{part}.{name}", settings) for name, settings in value.items()}


def name_of(part: str, name: Any) -> str:
    if not isinstance(name, str):
        raise UserError(f'study.{part}: YAML does not read the name {name} as text; write "{name}"')
    if not name or name != name.strip() or not name.isprintable():
        raise UserError(f"study.{part}: {name!r} is no name; begin and end it with a visible character, on one line")
    return name


def settings_in(where: str, overrides: Any) -> Settings:
    """A list of settings, each one key=value that a variant may set."""
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise UserError(f"{where}={overrides} should be a list of settings, such as [algo=clip, algo.epsilon=0.2]")
    for override in overrides:
        if override.startswith("-"):
            raise UserError(f"{where}: {override} is not a setting; write key=value")
        check_grammar(override)
        if (key := key_of(override)) == "env" or key.partition(".")[0] in LAUNCH_KEYS:
            raise UserError(f"{where}: {override} is not for one variant; say it once for the study or the command")
    distinct(where, list(map(key_of, overrides)))
    return tuple(overrides)


def a_list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"study.{name}={value} should be a list, such as {name}: [{value}]")
    return value


def words(name: str, value: Any) -> tuple[str, ...]:
    return distinct(f"study.{name}", [fitted(f"study.{name}", word, str) for word in a_list(name, value)])


def distinct(name: str, values: Sequence[Any]) -> tuple[Any, ...]:
    if twice := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
        raise UserError(f"{name}: {twice[0]} stands there twice; drop one of them")
    return tuple(values)


def picked(what: str, wanted: Any, known: Sequence[str]) -> tuple[str, ...]:
    """All of `known`, or the ones wanted, in the study's order."""
    if wanted is None:
        return tuple(known)
    names = [str(name) for name in (wanted if OmegaConf.is_list(wanted) else [wanted])]
    if not names:
        raise UserError(f"{what}=[] picks nothing; the study has {', '.join(known)}")
    for name in names:
        if name not in known:
            hint = near_matches(name, known) or f"; it has {', '.join(known)}"
            raise UserError(f"{what}: the study has no {name}{hint}")
    return tuple(name for name in known if name in names)
