"""Seconds and memory of a dataset and its report, from records invented for it.

python -m analysis.benchmark [--runs 231 1000 10000] [--json]

Each command runs in a process of its own; what it takes to start and import is shown apart. Records are small files
that were written just now, so reading them from a slow disk is not measured. Nothing here is a test: machines are
shared and noisy.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.paper import published
from analysis.scores import UNTRAINED
from experiments.records.schema import DIAGNOSTICS, SPENT, score

BUDGET, HORIZON = 999_424, 2048  # env steps of a run and of an iteration
BUDGET_UNTRAINED = 204_800
LONGEST_EPISODE = 665  # env steps; about 3000 episodes a run
DISTINCT_SEEDS = 3  # later seeds repeat these ones' files, another task's in turn
SETTINGS = {"clip": "epsilon", "kl_adaptive": "kl_target", "kl_fixed": "beta"}  # the number in a variant's name
PROVENANCE = {
    "commit": "0123456789abcdef" * 2, "dirty": False, "diff": "", "host": "invented", "cpu": "invented", "gpu": None,
    "packages": {f"package-{number}": "1.2.3" for number in range(150)},
}  # fmt: skip

Figures = dict[str, float]


def invent(records: Path, count: int, rng: np.random.Generator) -> int:
    """Records of at least `count` runs that learn: Table 1's variants on its tasks, with as many seeds as that takes,
    and the same seeds of the untrained policies. Returns how many runs there are in all."""
    paper = published.table1()["score"]
    skills: dict[str, float] = {**paper, **dict.fromkeys(UNTRAINED, 0.0)}
    seeds = -(-count // (len(published.TASKS) * len(paper)))
    distinct = DISTINCT_SEEDS * len(published.TASKS)
    for seed in range(seeds):
        for number, task in enumerate(published.TASKS):
            for variant, skill in skills.items():
                attempt = records / "attempts" / f"{variant}-{(DISTINCT_SEEDS * number + seed) % distinct}"
                if seed < DISTINCT_SEEDS:
                    write_attempt(attempt, variant, skill, rng)
                write_run(records / "runs" / "c0de", attempt, f"{task}-v4", variant, seed)
    return seeds * len(published.TASKS) * len(skills)


def write_attempt(folder: Path, variant: str, skill: float, rng: np.random.Generator) -> None:
    """What a run's training leaves, without saying which run."""
    budget = budget_of(variant)
    lengths = rng.integers(1, LONGEST_EPISODE + 1, 4 * budget // LONGEST_EPISODE)
    ends = lengths.cumsum()
    learned = skill * -np.expm1(-4 * ends / budget) + 0.1 * rng.standard_normal(ends.size)
    episodes = pd.DataFrame({"env_step": ends, "return": 20 + 1000 * learned, "length": lengths})[ends <= budget]
    count = budget // HORIZON
    steps = {"iteration": np.arange(1, count + 1), "env_steps": HORIZON * np.arange(1, count + 1)}
    unused = {"beta", "epsilon"} - {"kl": {"beta"}, "clip": {"epsilon"}}.get(variant.partition("_")[0], set())
    values = {name: rng.lognormal(-3, 1, count) * (np.nan if name in unused else 1) for name in DIAGNOSTICS}
    seconds = {name: rng.uniform(0.1, 1, count).round(4) for name in SPENT}
    clock = {"iteration": steps["iteration"], "unix_time": 1.8e9 + steps["iteration"], "pack_size": 33}
    folder.mkdir(parents=True)
    episodes.to_csv(folder / "episodes.csv", index=False)
    pd.DataFrame(steps | values).to_csv(folder / "iterations.csv", index=False, float_format="%.9g")
    pd.DataFrame(clock | seconds).to_csv(folder / "timing.csv", index=False)
    (folder / "provenance.json").write_text(json.dumps(PROVENANCE, indent=1))


def write_run(runs: Path, attempt: Path, env: str, variant: str, seed: int) -> None:
    """A finished run's folder. Its long files are links to the attempt's."""
    run_id = hashlib.sha256(f"{env} {variant} {seed}".encode()).hexdigest()[:12]
    folder = runs / f"{env}-{variant}.s{seed}-{run_id}"
    (folder / "attempt-1").mkdir(parents=True)
    for name in ("episodes.csv", "iterations.csv", "timing.csv"):
        (folder / "attempt-1" / name).hardlink_to(attempt / name)
    (folder / "provenance.json").hardlink_to(attempt / "provenance.json")
    objective, _, value = variant.rpartition("_")
    algo = {"objective": objective, SETTINGS[objective]: float(value)} if objective else {"objective": variant}
    config = {
        "algo": algo | {"gae_lambda": 0.95}, "profile": {f"setting_{number}": 0.5 for number in range(35)},
        "env": {"id": env}, "backend": "envpool", "numerics": "exact", "device": "cpu", "seed": seed,
        "env_steps": budget_of(variant),
    }  # fmt: skip
    head = {"run_id": run_id, "code_id": runs.name}
    mean = score(pd.read_csv(attempt / "episodes.csv")["return"].to_list())
    done = {"status": "complete", "seed": seed, "attempt": 1, "env_steps": budget_of(variant), "score": mean}
    for name in ("episodes", "iterations"):
        done[f"{name}_sha256"] = hashlib.sha256((attempt / f"{name}.csv").read_bytes()).hexdigest()
    (folder / "config.json").write_text(json.dumps({**head, "names": {"profile": "ppo1_2017_08"}, "config": config}))
    (folder / "done.json").write_text(json.dumps({**head, **done}))


def budget_of(variant: str) -> int:
    return BUDGET_UNTRAINED if variant in UNTRAINED else BUDGET


def measure(*arguments: Any) -> Figures:
    """Wall seconds, CPU seconds and peak MB of a fresh Python."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)  # it has said why
    seconds = time.perf_counter() - began
    return {"s": seconds, "cpu_s": usage.ru_utime + usage.ru_stime, "mb": usage.ru_maxrss / 1024}


def figures(count: int, rng: np.random.Generator) -> Figures:
    """Of at least `count` runs; ms_per_run leaves the imports out."""
    with tempfile.TemporaryDirectory() as folder:
        records, dataset, report = (Path(folder) / name for name in ("records", "dataset", "report"))
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # Linux counts our own peak as our children's
            found: Figures = {"runs": pool.apply(invent, (records, count, rng))}
        for name, source, out in (("collect", records, dataset), ("report", dataset, report)):
            measure("-c", f"import analysis.{name}")  # reads the libraries from disk
            found[f"{name}_import_s"] = measure("-c", f"import analysis.{name}")["s"]
            taken = measure("-m", f"analysis.{name}", source, "--out", out)
            found |= {f"{name}_{figure}": value for figure, value in taken.items()}
    work = sum(found[f"{name}_s"] - found[f"{name}_import_s"] for name in ("collect", "report"))
    return {**found, "ms_per_run": 1000 * work / found["runs"]}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.benchmark", description="Seconds and memory of analysis.")
    parser.add_argument("--runs", type=int, nargs="+", default=[231], help="how many that learn; each a measurement")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    options = parser.parse_args(arguments)
    if min(options.runs) < 1:
        parser.error("--runs takes numbers from 1")
    rng = np.random.default_rng(0)
    rows = [figures(count, rng) for count in options.runs]
    shown = pd.DataFrame(rows).map(lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.3g}")
    print(json.dumps(rows) if options.json else shown.T.to_string(header=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
