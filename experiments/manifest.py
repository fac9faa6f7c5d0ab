"""A study's grid, expanded once and frozen: one line per run, each a resolved config with its id.

    study × command line ──compose once per (variant, environment)──▶ studies/NAME/manifest.jsonl

Everything later speaks in run ids and never composes again. A relaunch that expands differently is refused with the
difference, unless the manifest may grow.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.choices import keys_set
from experiments.compose import CONF, NamedRun, build, check_arguments, fitted, key_of, runs_of
from experiments.files import read_lines, write_durably
from experiments.grammar import LAUNCH_KEYS, Study
from experiments.identity import run_id, slug
from ppo.config import Algo, Env, Profile, RunConfig
from ppo.refusals import UserError

DIFFERENCES_SHOWN = 5


@dataclass(frozen=True)
class Entry:
    """One line of the manifest."""

    run_id: str
    variant: str
    env: str  # its name in conf/env
    run: NamedRun

    @property
    def folder_name(self) -> str:
        return f"{slug(self.run.config)}-{self.run_id}"

    def line(self) -> str:
        head = {"run_id": self.run_id, "variant": self.variant, "env": self.env}
        return json.dumps({**head, "names": dict(self.run.names), "config": asdict(self.run.config)}, allow_nan=False)


def expand(study: Study, overrides: Sequence[str], own: Path | None = None) -> list[Entry]:
    """The grid as runs, seeds innermost. `overrides` are the command line's own; none may contradict a variant.

    `own` is the folder of a user's own configs.
    """
    general = [override for override in overrides if key_of(override).partition(".")[0] not in LAUNCH_KEYS]
    folders = [CONF, *([own] if own else [])]
    refuse_conflicts(study, general, folders)
    entries: dict[str, Entry] = {}
    for variant, settings in study.variants.items():
        asked = at_most(settings, general)
        try:
            check_arguments(asked, own=own)
        except UserError as error:
            raise UserError(f"variant {variant}: {error}") from error
        versions = [override for override in asked if key_of(override) == "env.version"]
        for env in study.environments:
            check_arguments([f"env={env}", *versions], own=own)
            for run in composed([f"env={env}", *defaults(study, asked), *asked]):
                entry = Entry(run_id(run.config), variant, env, NamedRun(run.config, {**run.names, "variant": variant}))
                if (twin := entries.setdefault(entry.run_id, entry)) is not entry:
                    one, other = (f"{each.variant} on {each.env}" for each in (twin, entry))
                    raise UserError(f"variants {one} and {other} are one run; drop one of them")
    return list(entries.values())


def at_most(settings: Sequence[str], general: Sequence[str]) -> list[str]:
    """A variant's settings and the command line's. A budget of its own, such as random's, is cut but never grows."""
    rest = [setting for setting in (*settings, *general) if key_of(setting) != "env_steps"]
    last = [[setting for setting in said if key_of(setting) == "env_steps"][-1:] for said in (settings, general)]
    budgets = [budget for budgets in last for budget in budgets]
    return [*rest, min(budgets, key=steps_in)] if budgets else rest


def steps_in(override: str) -> int:
    return fitted("env_steps", OverridesParser.create().parse_override(override).value(), int)


def defaults(study: Study, overrides: Sequence[str]) -> list[str]:
    """What the study says once for all its runs, where nothing nearer says otherwise."""
    said = {key_of(override) for override in overrides}
    values: dict[str, Any] = {"env_steps": study.env_steps, "profile": study.profile}
    if not said & {"seed", "seeds", "num_seeds"}:
        values["seeds"] = list(study.seeds)
    return [f"{key}={value}" for key, value in values.items() if value is not None and key not in said]


def composed(overrides: Sequence[str]) -> list[NamedRun]:
    """Hydra's answer to these overrides, typed; its complaints in one sentence."""
    try:
        cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
        choices = dict(cfg.hydra.runtime.choices)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        return runs_of(cfg, choices)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}") from error


def refuse_conflicts(study: Study, overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """What variants set, in the study or by their algo's file, is what it compares: overriding it makes them the same.

    So does a key that their files give different values. Budgets are apart: see `at_most`.
    """
    said = {name: {key_of(s): s.partition("=")[2] for s in settings} for name, settings in study.variants.items()}
    chosen = {key_of(override): override.partition("=")[2] for override in overrides}
    files = {name: files_say(own, chosen.get("profile", study.profile), folders) for name, own in said.items()}
    for key in chosen:
        if key == "env":
            raise UserError(f"env=…: a study has its own; environments=[…] picks among {', '.join(study.environments)}")
        if key == "env_steps":
            continue
        setters = {name: "" for name, own in said.items() if key in own}
        if not key.startswith("algo."):
            by_file = {n: f" (algo={said[n]['algo']})" for n, (algo, _) in files.items() if key in algo}
            setters |= {name: file for name, file in by_file.items() if name not in setters}
        if setters:
            raise UserError(
                f"{key} is set by the study's variants {', '.join(name + file for name, file in setters.items())}; "
                "change it there, or pick other variants with variants=[…]"
            )
        values = {name: ({**below, **algo})[key] for name, (algo, below) in files.items() if key in {**below, **algo}}
        if len({tuple(value) if isinstance(value, list) else value for value in values.values()}) > 1:
            told = ", ".join(f"{name} {value}" for name, value in values.items())
            raise UserError(
                f"{key} is not the same in all of the study's variants ({told}) and would become so; pick those that "
                "may share it with variants=[…], or make a study of your own"
            )


def files_say(
    settings: Mapping[str, str], profile: str | None, folders: Sequence[Path]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys that a variant's algo file sets, and all of its profile's; nothing for a policy that learns nothing."""
    algo = keys_set("algo", settings["algo"], folders) if "algo" in settings else {}
    if algo.get("algo.objective") in ("random", "initial"):
        return {}, {}
    profile = settings.get("profile", profile)
    neutral = {f"profile.{name}": value for name, value in asdict(Profile()).items()}
    return algo, neutral | keys_set("profile", profile, folders) if profile else {}


def freeze(folder: Path, entries: Sequence[Entry], extend: bool) -> list[Entry]:
    """The manifest in `folder`: written if there is none, kept if it says the same, grown if that is asked for."""
    frozen, fresh = agreed(folder, entries, extend)
    if fresh or not frozen:
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{entry.line()}\n" for entry in [*frozen, *fresh])
        write_durably(folder / "manifest.jsonl", lines.encode())
    return [*frozen, *fresh]


def agreed(folder: Path, entries: Sequence[Entry], extend: bool) -> tuple[list[Entry], list[Entry]]:
    """The runs that are frozen in `folder` and those that come to them; a refusal where the two would not agree."""
    frozen = read_manifest(folder) if (folder / "manifest.jsonl").exists() else []
    known = {entry.run_id for entry in frozen}
    wanted = {entry.run_id for entry in entries}
    gone = [entry for entry in frozen if entry.run_id not in wanted]
    fresh = [entry for entry in entries if entry.run_id not in known]
    if frozen and (gone or fresh) and not (extend and not gone):
        raise UserError(
            f"{folder.name} is frozen and would become another study: {difference(fresh, gone)}; "
            + ("extend=true only adds, it never removes; " if extend else "extend=true adds runs; " if not gone else "")
            + "name=… makes a study of its own"
        )
    return frozen, fresh


def difference(fresh: Sequence[Entry], gone: Sequence[Entry]) -> str:
    """'2 more runs (…), 1 fewer (…)', a few of them by name."""

    def told(entries: Sequence[Entry]) -> str:
        names = [entry.folder_name for entry in entries[:DIFFERENCES_SHOWN]]
        return ", ".join([*names, *(["…"] if len(entries) > DIFFERENCES_SHOWN else [])])

    parts = [(fresh, "new"), (gone, "missing")]
    return ", ".join(f"{len(entries)} {word} ({told(entries)})" for entries, word in parts if entries)


def read_manifest(folder: Path) -> list[Entry]:
    """The frozen runs; a line that was edited is refused, since its id no longer fits."""
    path = folder / "manifest.jsonl"
    entries = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            config = config_from(line["config"])
            entry = Entry(line["run_id"], line["variant"], line["env"], NamedRun(config, line["names"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}, line {number}: {error!r} is missing or misplaced; restore the file") from error
        if run_id(config) != entry.run_id:
            raise UserError(
                f"{path}, line {number} was changed by hand: its settings have the id {run_id(config)}, not "
                f"{entry.run_id}; restore it, or make a study of its own with name=…"
            )
        entries.append(entry)
    return entries


def config_from(values: Mapping[str, Any]) -> RunConfig:
    """A run's typed config from JSON."""
    parts = {"algo": settings(Algo, values["algo"]), "profile": settings(Profile, values["profile"])}
    return RunConfig(**{**values, **parts, "env": Env(**values["env"])})


def settings(cls: type, values: Mapping[str, Any]) -> Any:
    """Typed settings; equal ones are built once, since a manifest repeats a few of them thousands of times."""
    return _settings(cls, json.dumps(values, sort_keys=True))


@cache
def _settings(cls: type, text: str) -> Any:
    return build(cls, json.loads(text), f"{cls.__name__.lower()}.")
