"""A dataset: what analysis reads. Three tidy parquet tables and a note on where they come from.

    runs        one row per run
    episodes    one row per finished episode: run, env_step (of the run, at the episode's end), return (raw,
                undiscounted reward), length (env steps)
    iterations  one row per iteration of the training loop: run, iteration, env_steps and the diagnostics
    dataset.json  schema version, sources, and what was left out and why

`run` is `<run id>-<code id>`, the same key in all three. Rows are ordered by run and by time.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.records import RecordError

SCHEMA = 1
TABLES = ("runs", "episodes", "iterations")

RUN_COLUMNS = {
    "run": "key: run id and code id",
    "run_id": "hash of all that changes the run's numbers",
    "code_id": "digest of the algorithm's code and the packages beneath it",
    "variant": "name of the algorithm's setting, such as clip_0.2",
    "env": "task with its version, such as Hopper-v4",
    "profile": "name of the implementation details",
    "seed": "",
    "status": "complete | diverged | partial",
    "budget": "env steps asked for",
    "env_steps": "env steps taken",
    "episodes": "finished episodes",
    "score": "mean return of the last 100 finished episodes (fewer if there are fewer); NaN without any",
    "score_episodes": "how many episodes the score is the mean of",
    "seconds": "wall seconds of its pack's iterations, divided by the pack's size",
    "backend": "envpool | gymnasium",
    "numerics": "exact | fast",
    "device": "cpu | cuda",
    "commit": "of the code; with + if it had uncommitted changes",
    "host": "where it was first trained",
    "cpu": "",
    "gpu": "",
    "config": "all settings, as JSON",
    "source": "where the rows were read",
}
"""Columns of `runs` and what they mean."""

SCORE_EPISODES = 100


@dataclass
class Dataset:
    """The three tables and the note."""

    runs: pd.DataFrame
    episodes: pd.DataFrame
    iterations: pd.DataFrame
    note: dict[str, Any] = field(default_factory=dict)


def load(folder: Path) -> Dataset:
    """A dataset from its folder; RecordError says what is missing."""
    missing = [name for name in TABLES if not (folder / f"{name}.parquet").exists()]
    if missing:
        raise RecordError(f"{folder} is no dataset (no {missing[0]}.parquet); python -m analysis.collect makes one")
    note = json.loads((folder / "dataset.json").read_text())
    if note.get("schema") != SCHEMA:
        raise RecordError(f"{folder} has schema {note.get('schema')}, and this code reads {SCHEMA}; collect it anew")
    runs, episodes, iterations = (pd.read_parquet(folder / f"{name}.parquet") for name in TABLES)
    return Dataset(runs, episodes, iterations, note)
