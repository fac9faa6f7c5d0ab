"""What the tests of scores, power and replication share: pools of runs whose truth is known, and datasets of them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.dataset import RUN_COLUMNS, SCHEMA
from analysis.paper import published

TASKS = {  # the score of a random policy, and of the best
    "HalfCheetah-v4": (-285.0, 1700.0),
    "Hopper-v4": (18.0, 2300.0),
    "InvertedDoublePendulum-v4": (57.0, 8000.0),
    "InvertedPendulum-v4": (6.0, 1000.0),
    "Reacher-v4": (-43.0, -7.0),
    "Swimmer-v4": (0.8, 108.0),
    "Walker2d-v4": (2.7, 3400.0),
}


def pool(
    truth: Mapping[str, float], seeds: int, spread: float = 0.15, seed: int = 0, tasks: Mapping = TASKS
) -> pd.DataFrame:
    """The `runs` of a dataset: normalised scores are normal about each variant's `truth`, on every task."""
    rng = np.random.default_rng(seed)
    rows = []
    for task, (zero, one) in tasks.items():
        for number in range(seeds):
            rows.append(("random", task, number, zero))
            for variant, score in truth.items():
                rows.append((variant, task, number, zero + (one - zero) * (score + spread * rng.standard_normal())))
    runs = pd.DataFrame(rows, columns=["variant", "env", "seed", "score"])
    return runs.assign(score_episodes=100, status="complete", profile="ppo1_2017_08", code_id="c0de")


def printed() -> pd.Series:
    """Table 1's scores."""
    return published.table1()["score"]


def dataset(folder: Path, runs: pd.DataFrame) -> Path:
    folder.mkdir()
    runs = runs.assign(**{name: "" for name in RUN_COLUMNS if name not in runs})
    episodes = pd.DataFrame(columns=["run", "env_step", "return", "length"])
    iterations = pd.DataFrame(columns=["run", "iteration", "env_steps"])
    for name, table in {"runs": runs, "episodes": episodes, "iterations": iterations}.items():
        table.to_parquet(folder / f"{name}.parquet")
    (folder / "dataset.json").write_text(json.dumps({"schema": SCHEMA, "sources": [], "left_out": {}}))
    return folder
