"""Speed and memory, as ratios within one run.

python -m experiments.benchmark [json=true] [rounds=1]

Stable-Baselines3, one run, a pack and the bare environments take turns on one core, each in a process of its own, with
the same task and the settings of Table 3. Nothing here is a test: machines are shared and noisy.
"""

import json
import multiprocessing
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import hydra
import numpy as np
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.compose import CONF, NamedRun, fitted, runs_of
from experiments.files import as_json
from experiments.grammar import study_of
from experiments.identity import code_id
from experiments.jobs.launch import LaunchTerms, freeze_launch
from experiments.jobs.survey import look
from experiments.manifest import expand, freeze
from experiments.records.record import Record
from experiments.runner import Watcher, train_runs
from experiments.status import table
from experiments.tracking.settings import MirrorProcess, Tracking
from experiments.train import begin, stop
from ppo.config import Algo, Env, RunConfig
from ppo.environments import Environments
from ppo.pack import Pack
from ppo.refusals import UserError, positive
from ppo.train import Iteration

TABLE_1 = (
    Algo("unconstrained"),
    *(Algo("clip", epsilon=epsilon) for epsilon in (0.1, 0.2, 0.3)),
    *(Algo("kl_adaptive", beta=1.0, kl_target=target) for target in (0.003, 0.01, 0.03)),
    *(Algo("kl_fixed", beta=beta) for beta in (0.3, 1.0, 3.0, 10.0)),
)

CHECKPOINT_SECONDS = 60.0  # conf/config.yaml's; the mirror sends rows as checkpoints cover them
MIRRORED = 5  # times as many iterations where the mirror is watched, so that it has rows to send
COUNTS = ("rounds", "iterations", "pack", "study_seeds", "resets")  # conf/benchmark.yaml's
MIRROR_FIGURES = ("startup_s", "mirror_mb", "mirror_core_share")

Figures = dict[str, float]


class Enough(Exception):
    """The measured iterations are over."""


def suite(runs: Sequence[NamedRun], iterations: int, tracking: str = "none") -> Figures:
    """env steps/s of `train_runs`, records included; the first iteration warms up and does not count.

    With tracking, also the mirror on the same core: seconds until all its W&B runs are open, after which speed is
    measured (niceness stretches the start over what a nice process may have of a busy core), MB, share of the core.
    """
    boundaries: list[float] = []
    spent: list[dict[str, float]] = []
    mirror: Figures = {}

    def moved(_pack: Pack, iteration: Iteration) -> None:
        if tracking != "none" and "startup_s" not in mirror:
            return
        boundaries.append(time.perf_counter())
        spent.append(iteration.seconds)
        if len(boundaries) > iterations:
            raise Enough

    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder)
        beside = MirrorProcess(Tracking(tracking), records, [Record(records, run).folder for run in runs])
        beside.start()
        process = beside.process
        if process is not None:
            threading.Thread(target=observe, args=(process.pid, records, len(runs), mirror), daemon=True).start()
        try:
            train_runs(runs, records, CHECKPOINT_SECONDS, Watcher(moved=moved))
        except Enough:
            pass
        if process is not None:
            process.communicate(timeout=60)
    wall = boundaries[-1] - boundaries[0]
    parts = {name: sum(seconds[name] for seconds in spent[1:]) / wall for name in spent[0]}
    steps = iterations * runs[0].config.profile.steps * len(runs)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rate": steps / wall, "peak_mb": memory, **parts, "bookkeeping": 1 - sum(parts.values()), **mirror}


def observe(pid: int, records: Path, runs: int, figures: Figures) -> None:
    """Watch a mirror and its wandb-core until they end."""
    began = time.monotonic()
    while family := processes_under(pid):
        if "startup_s" not in figures and len([*records.glob("wandb/offline-run-*")]) == runs:
            figures["startup_s"] = time.monotonic() - began
        figures["mirror_mb"] = max(figures.get("mirror_mb", 0.0), sum(memory for memory, _ in family))
        figures["mirror_core_share"] = sum(cpu for _, cpu in family) / (time.monotonic() - began)
        time.sleep(1.0 if "startup_s" in figures else 0.1)  # a look takes 2 ms of the trainer's core


def processes_under(pid: int) -> list[tuple[float, float]]:
    """(resident MB, CPU seconds) of a process and its children; none once it is gone."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended just now
        if fields[0] != "Z" and pid in (int(stat.parent.name), int(fields[1])):
            cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            found.append((int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20, cpu))
    return found


def sb3(run: RunConfig, iterations: int) -> Figures:
    """env steps/s of Stable-Baselines3's PPO with the same task and Table 3's settings."""
    import gymnasium
    import torch
    from stable_baselines3 import PPO

    torch.set_num_threads(1)
    p = run.profile
    model = PPO(
        "MlpPolicy", gymnasium.make(run.env.id), learning_rate=p.stepsize, n_steps=p.horizon, n_epochs=p.epochs,
        batch_size=p.minibatch_size, gamma=p.gamma, gae_lambda=run.algo.gae_lambda, device="cpu", seed=0,
    )  # fmt: skip
    return speed_of(model, p.steps, iterations)


def speed_of(model: Any, steps: int, iterations: int) -> Figures:
    """env steps/s of an SB3 model whose iterations have so many env steps; the first warms up and does not count."""
    model.learn(steps)
    began = time.perf_counter()
    model.learn(iterations * steps, reset_num_timesteps=False)
    return {"rate": iterations * steps / (time.perf_counter() - began)}


def bare_environments(run: RunConfig, count: int) -> Figures:
    """env steps/s with random actions and nothing else."""
    environments = Environments(run.env, run.backend, range(count))
    environments.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (200, count, environments.spaces.action_size))
    began = time.perf_counter()
    for action in actions:
        _, terminated, truncated = environments.step(action)
        if (ended := terminated | truncated).any():
            environments.reset(np.flatnonzero(ended))
    return {"rate": actions.shape[0] * count / (time.perf_counter() - began)}


def replay(env_id: str, count: int, resets: int) -> Figures:
    """Seconds to rebuild a pack's environments after so many resets each."""
    source = Environments(Env(env_id), "envpool", range(count))
    source.reset()
    source.step(np.zeros((count, source.spaces.action_size)))
    states = [source.state_dict(run) for run in range(count)]
    began = time.perf_counter()
    try:
        Environments(Env(env_id), "envpool", range(count)).load_state_dicts([s | {"resets": resets} for s in states])
    except UserError:
        pass  # the observation is another episode's; only the time is of interest
    return {"seconds": time.perf_counter() - began}


def large_study(seeds: int, folder: str) -> Figures:
    """Seconds to expand and freeze Table 1 with so many seeds, and to say how all its runs stand."""
    records = Path(folder)
    study = records / "studies" / "large"
    overrides = ["study=table1", f"num_seeds={seeds}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        began = time.perf_counter()
        entries = freeze(study, expand(study_of(compose("launch", overrides=overrides)), overrides), extend=False)
        expanded = time.perf_counter() - began
    for entry in entries:
        run = records / "runs" / code_id() / entry.folder_name
        (run / "attempt-1").mkdir(parents=True)
        (run / "done.json").write_bytes(as_json({"status": "complete", "score": 1.0, "env_steps": 999_424}))
    freeze_launch(study, [[[entry.run_id for entry in entries]]], cast(LaunchTerms, {"cluster": "local"}))
    began = time.perf_counter()
    table("large", look(study))
    return {"runs": len(entries), "expand_s": expanded, "status_s": time.perf_counter() - began}


def alone(function: Callable[..., Figures], *arguments: Any) -> Figures:
    """The function's figures from a fresh process, bound to one core."""
    with multiprocessing.get_context("spawn").Pool(1, initializer=bind) as pool:
        return pool.apply(function, arguments)


def bind() -> None:
    """One core; on systems that cannot bind, one thread must do."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def measure(run: NamedRun, cfg: DictConfig, say: Callable[[str], None]) -> dict[str, float]:
    """Every measurement, in turn, as often as there are rounds; then all figures."""
    single = {numerics: [NamedRun(replace(run.config, numerics=numerics), run.names)] for numerics in ("exact", "fast")}
    packs = {
        numerics: [
            NamedRun(replace(run.config, numerics=numerics, algo=TABLE_1[i % 11], seed=i // 11), run.names)
            for i in range(cfg.pack)
        ]
        for numerics in ("exact", "fast")
    }
    seen: dict[str, list[Figures]] = {}

    def take(name: str, function: Callable[..., Figures], *arguments: Any) -> None:
        figures = alone(function, *arguments)
        seen.setdefault(name, []).append(figures)
        say(f"  {name:<18} " + "  ".join(f"{key} {value:,.3g}" for key, value in figures.items()))

    for number in range(cfg.rounds):
        say(f"round {number + 1} of {cfg.rounds}")
        take("sb3", sb3, run.config, cfg.iterations)
        take("environments", bare_environments, run.config, cfg.pack)
        for name, tracking in (("pack with mirror", "offline"), ("pack without", "none")):
            take(name, suite, packs["exact"], MIRRORED * cfg.iterations, tracking)
        for numerics in ("exact", "fast"):
            take(f"single {numerics}", suite, single[numerics], cfg.iterations)
            take(f"pack {numerics}", suite, packs[numerics], cfg.iterations)
    with tempfile.TemporaryDirectory() as folder:
        take("large study", large_study, cfg.study_seeds, folder)
    for env_id in ("InvertedPendulum-v4", "Reacher-v4"):
        take(f"replay {env_id}", replay, env_id, cfg.pack, cfg.resets)

    return summary(seen)


def summary(seen: dict[str, list[Figures]]) -> dict[str, float]:
    """What the measurements of all rounds come to, by name: medians, and ratios of medians."""

    def rate(name: str) -> float:
        return median(figures["rate"] for figures in seen[name])

    def share(part: str) -> float:
        return median(figures[part] for figures in seen["pack exact"])

    return {
        "single_vs_sb3": rate("single exact") / rate("sb3"),
        "pack_vs_sb3": rate("pack exact") / rate("sb3"),
        "single_vs_sb3_fast": rate("single fast") / rate("sb3"),
        "pack_vs_sb3_fast": rate("pack fast") / rate("sb3"),
        "share_of_env_speed": rate("pack exact") / rate("environments"),
        "peak_mb": max(figures["peak_mb"] for figures in seen["pack exact"]),
        "peak_mb_fast": max(figures["peak_mb"] for figures in seen["pack fast"]),
        **{f"share_{part}": share(part) for part in ("environment", "inference", "update", "bookkeeping")},
        "tracked_vs_untracked": rate("pack with mirror") / rate("pack without"),
        **{name: median(figures[name] for figures in seen["pack with mirror"]) for name in MIRROR_FIGURES},
        **{f"study_{name}": value for name, value in seen["large study"][0].items()},
        "replay_invertedpendulum_s": seen["replay InvertedPendulum-v4"][0]["seconds"],
        "replay_reacher_s": seen["replay Reacher-v4"][0]["seconds"],
        "sb3_steps_per_s": rate("sb3"),
        "pack_steps_per_s": rate("pack exact"),
    }


def as_table(figures: dict[str, float]) -> str:
    return "\n".join(f"{name:<28}{value:>10,.3g}" for name, value in figures.items())


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="benchmark")
def main(cfg: DictConfig) -> None:
    try:
        runs = runs_of(cfg, HydraConfig.get().runtime.choices)
        if len(runs) > 1:
            raise UserError(f"{len(runs)} seeds: the benchmark makes its packs itself from one run; give one seed")
        for name in COUNTS:
            cfg[name] = fitted(name, cfg[name], int)
            positive(name, cfg[name])
    except UserError as error:
        stop(str(error))
    out = sys.stderr if cfg.json else sys.stdout
    figures = measure(runs[0], cfg, lambda line: print(line, file=out, flush=True))
    print(as_table(figures), file=out)
    if cfg.json:
        print(json.dumps(figures))


def run() -> None:
    begin(main, "benchmark")


if __name__ == "__main__":
    run()
