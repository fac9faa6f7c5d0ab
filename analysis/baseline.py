"""Stored baselines: a dataset of many seeds, how it was made, and what a candidate must share with it.

analysis/baselines/NAME/  runs, episodes, iterations (parquet), dataset.json   as `analysis.collect` writes them
                          baseline.json   reason, study, seeds per look, commit, code id, versions, machine
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.dataset import Dataset, load, parts_of
from analysis.records import RecordError
from analysis.scores import UNTRAINED
from analysis.sources.records import place_of

FOLDER = Path(__file__).parent / "baselines"
INSTALLED = not (FOLDER.parents[1] / "conf").is_dir()  # a wheel's own folder goes with its next version
SIMULATORS = ("mujoco", "envpool", "gymnasium", "ale-py")  # another version of these is another task
NUMERICS = ("torch", "numpy")  # another version of these is told, and forbids nothing
YOUNGER = {
    "profile.actors": "1", "profile.rollouts": "1", "profile.value_fit": '"joint"', "profile.optimiser": '"adam"',
    "profile.rmsprop_decay": "0.99", "profile.rmsprop_epsilon": "1e-05", "profile.convolutions": '"none"',
    "profile.lost_life": '"goes_on"', "env.frame_max": "false", "env.fire": "false",
}  # fmt: skip
"""Settings younger than some baseline, and what was so before they were: the neutral defaults of ppo/config.py
other than null."""


@dataclass(frozen=True)
class Baseline:
    """A stored dataset and what is known of it."""

    name: str
    dataset: Dataset
    about: Mapping[str, Any]

    @property
    def runs(self) -> pd.DataFrame:
        return self.dataset.runs


def read_baseline(name: str, folder: Path = FOLDER) -> Baseline:
    """A baseline by its name; RecordError names those that there are, and says what a mere dataset is for."""
    path = folder / name
    if not (path / "baseline.json").exists():
        known = ", ".join(sorted(found.parent.name for found in folder.glob("*/baseline.json"))) or "none yet"
        if (parts_of(path)[0] / "dataset.json").exists():
            raise RecordError(
                f"{path} is a published dataset, to be read by analysis.report and analysis.replicate; changes are "
                f"judged by a baseline with seeds enough for that ({known})"
            )
        raise RecordError(f"there is no baseline {name} in {folder} ({known}); python -m analysis.bless makes one")
    return Baseline(name, load(path), json.loads((path / "baseline.json").read_text()))


def versions_of(study: str, records: Path) -> dict[str, str]:
    """Versions of simulators and numeric packages that trained a study's runs; RecordError if they were several."""
    found: set[str] = set()
    for folder in place_of(study, records).folders:
        packages = json.loads((folder / "provenance.json").read_text())["packages"]
        kept = {name.lower(): version for name, version in packages.items()}
        found.add(json.dumps({name: kept.get(name) for name in (*SIMULATORS, *NUMERICS)}))
    if len(found) != 1:
        raise RecordError(f"the runs of {study} were trained under {len(found)} sets of package versions")
    versions: dict[str, str] = json.loads(found.pop())
    return versions


def refuse_faulty(runs: pd.DataFrame) -> None:
    """Runs whose environment handed out what was no number say nothing of the algorithm."""
    if count := int((runs["status"] == "faulty").sum()):
        raise RecordError(
            f"{count} run{'s are' if count > 1 else ' is'} faulty: the environment handed out rewards or observations "
            "that are not finite; nothing is judged by them, so mend it and train again"
        )


def settings_of(runs: pd.DataFrame) -> dict[tuple[str, str], dict[str, str]]:
    """Every setting but the seed, by variant and task without its version."""
    found = {}
    for (variant, env), cell in runs.groupby(["variant", "env"]):
        config = json.loads(cell["config"].iloc[0])
        config["env"]["id"] = env
        config.pop("seed")
        found[str(variant), env.rpartition("-")[0]] = dict(flat(config))
    return found


def flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{name}.")
        else:
            yield before + name, json.dumps(value)


def differences(runs: pd.DataFrame, versions: Mapping[str, str], baseline: Baseline) -> list[str]:
    """Why these runs cannot be judged by the baseline; empty if they can."""
    said = [
        f"{name} {versions.get(name)}, not {baseline.about['versions'].get(name)}"
        for name in SIMULATORS
        if versions.get(name) != baseline.about["versions"].get(name)
    ]
    ours, theirs = settings_of(runs), settings_of(baseline.runs)
    for cell in sorted(ours.keys() ^ theirs.keys()):
        whose = "the candidate" if cell in ours else "the baseline"
        if cell[0] not in UNTRAINED:
            said.append(f"only {whose} has {cell[0]} on {cell[1]}")
    found: dict[str, list[str]] = {}
    for cell in sorted(ours.keys() & theirs.keys()):
        for name in sorted(ours[cell].keys() | theirs[cell].keys()):
            before = YOUNGER.get(name, "null")  # what is off is as if it were not there
            mine, stored = ours[cell].get(name, before), theirs[cell].get(name, before)
            if mine != stored:
                found.setdefault(f"{name}={mine}, not {stored}", []).append(cell[1])
    return said + [f"{what} ({', '.join(sorted(set(tasks)))})" for what, tasks in found.items()]
