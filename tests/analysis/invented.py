"""Invented datasets, written as `analysis.collect` writes real ones: curves that rise, episodes as long as the task's.

`write(folder, rng)` is the quick study; more variants, tasks, profiles, diverged and missing runs are arguments.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from analysis import collect
from analysis.dataset import RUN_COLUMNS, SCHEMA
from analysis.paper import published
from analysis.scores import UNTRAINED
from analysis.sources.records import Collected, score_of
from ppo.config import Algo, Env, Profile, RunConfig


class Task(NamedTuple):
    zero: float  # return of a random policy
    one: float  # of a good one
    shortest: float  # env steps of an episode of the random policy
    longest: float  # of the good one


TASKS = {
    "HalfCheetah-v4": Task(-285, 1700, 1000, 1000),
    "Hopper-v4": Task(18, 2300, 20, 700),
    "InvertedDoublePendulum-v4": Task(57, 8000, 6, 850),
    "InvertedPendulum-v4": Task(6, 1000, 6, 1000),
    "Reacher-v4": Task(-43, -7, 50, 50),
    "Swimmer-v4": Task(0.8, 108, 1000, 1000),
    "Walker2d-v4": Task(2.7, 3400, 20, 750),
}
DIAGNOSTICS = (
    "kl", "kl_k3", "clip_fraction", "explained_variance", "entropy", "beta", "update_norm", "policy_loss", "std",
)  # fmt: skip
SETTING = {"clip": "epsilon", "kl_adaptive": "kl_target", "kl_fixed": "beta"}
TABLE_1 = (*published.table1().index, *UNTRAINED)
Key = tuple[str, str, int]  # variant, environment, seed


def write(
    folder: Path,
    rng: np.random.Generator,
    variants: Sequence[str] = ("unconstrained", "clip_0.2", "random"),
    environments: Sequence[str] = ("Hopper-v4", "InvertedPendulum-v4"),
    seeds: int = 3,
    env_steps: int = 200_000,
    diverged: Mapping[Key, float] = {},
    missing: Collection[Key] = (),
    study: Mapping[str, Any] | None = None,
) -> Path:
    """A dataset in `folder`, which it returns. A variant is named as in Table 1, with a profile's name before it where
    there are several (`paper_text/clip_0.2`); other names are inventions. A `diverged` run ends at this share of its
    budget, and its returns fall without bound before."""
    folder.mkdir(parents=True)
    keys = [(v, e, s) for v in variants for e in environments for s in range(seeds) if (v, e, s) not in missing]
    skill = {(v, e): rng.normal(0.75, 0.15) for v in variants for e in environments}

    def runs() -> Iterator[Collected]:
        for variant, environment, seed in keys:
            config = configured(variant, environment, seed, env_steps)
            level = skill[variant, environment] + rng.normal(0, 0.12) if config.algo.learner.learns else 0.0
            end = diverged.get((variant, environment, seed))
            episodes = episodes_of(TASKS[environment], level, config.env_steps, end, rng)
            yield Collected(row_of(variant, config, episodes, end), episodes, iterations_of(config, rng))

    collect.write(runs(), folder)
    default = {"name": "invented", "variants": list(variants), "overrides": [], "tables": [], "figures": []}
    note = {"schema": SCHEMA, "sources": ["invented"], "columns": RUN_COLUMNS, "left_out": {}}
    (folder / "dataset.json").write_text(json.dumps(note | {"study": study or default}, indent=1) + "\n")
    return folder


def configured(variant: str, environment: str, seed: int, env_steps: int) -> RunConfig:
    objective, _, value = variant.rpartition("/")[2].rpartition("_")
    settings: dict[str, Any] = {"objective": value} if value in TABLE_1 else {"objective": "clip", "epsilon": 0.2}
    if objective in SETTING:
        beta = {"beta": 1.0} if objective == "kl_adaptive" else {}
        settings = {"objective": objective, **beta, SETTING[objective]: float(value)}
    budget = env_steps if value not in UNTRAINED else env_steps // 5
    return RunConfig(Algo(**settings), Profile(), Env(environment), seed=seed, env_steps=budget)


def episodes_of(task: Task, level: float, env_steps: int, end: float | None, rng: np.random.Generator) -> pa.Table:
    """Episodes that follow one another: their number by each env step is the integral of 1 / length."""
    grid = np.arange(1, env_steps + 1)
    skill = level * (1 - np.exp(-4 * grid / env_steps))
    begun = np.cumsum(1 / (task.shortest + (task.longest - task.shortest) * np.clip(skill, 0, 1)))
    ends = np.searchsorted(begun, np.arange(1, int(begun[-1] + 1e-6) + 1) - 1e-6) + 1
    ends = ends[ends <= env_steps * (end or 1)]
    returns = task.zero + (task.one - task.zero) * (skill[ends - 1] + rng.normal(0, 0.1, ends.size))
    if end:
        returns -= (task.one - task.zero) * np.expm1(5 * np.clip(2 * ends / (env_steps * end) - 1, 0, 1))
    return pa.table({"env_step": ends, "return": returns, "length": pa.array(np.diff(ends, prepend=0), pa.int32())})


def iterations_of(config: RunConfig, rng: np.random.Generator) -> pa.Table:
    """Diagnostics that wander about plausible values."""
    columns = {name: np.exp(rng.normal(-3, 0.3, config.iterations)) for name in DIAGNOSTICS}
    number = np.arange(config.iterations)
    return pa.table({"iteration": number, "env_steps": config.profile.horizon * (number + 1), **columns})


def row_of(variant: str, config: RunConfig, episodes: pa.Table, end: float | None) -> dict[str, Any]:
    run_id = hashlib.sha256(f"{variant} {config.env.id} {config.seed}".encode()).hexdigest()[:16]
    return dict.fromkeys(RUN_COLUMNS, "invented") | {
        "run": f"{run_id}-c0de", "run_id": run_id, "code_id": "c0de", "variant": variant,
        "env": config.env.id, "profile": variant.rpartition("/")[0] or "ppo1_2017_08", "seed": config.seed,
        "status": "diverged" if end else "complete",
        "measure": "training episodes", "budget": config.env_steps, "env_steps": int(config.env_steps * (end or 1)),
        **score_of(episodes), "seconds": 60.0, "peak_mb": 600.0, "backend": config.backend, "numerics": config.numerics,
        "device": config.device, "not_finite": "", "config": json.dumps(asdict(config), sort_keys=True),
    }  # fmt: skip
