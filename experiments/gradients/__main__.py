"""What each rung of the road to PPO does to the policy gradient's noise and bias, measured at fixed policies.

python -m experiments.gradients --out FILE.csv [--env-steps N]

One run of clip 0.2 per task gives three policies: untrained, half-trained, nearly trained. Of each, whole episodes are
played, and every rung turns the same episodes into an estimate of the gradient of the expected return. The table has a
row per task, policy and rung; its columns are explained in `COLUMNS` and in `experiments.gradients.statistics.facts`.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.commands import command
from experiments.compose import CONF, resolved_backend
from experiments.files import write_durably
from experiments.gradients.play import Policy, fit_critics, perturbed, play
from experiments.gradients.rungs import GAMMA, KNOWN, REFERENCES, RUNGS, blocks_of, effective_episodes, on_policy
from experiments.gradients.statistics import BATCH, facts
from experiments.profiles import read
from experiments.runner import Interrupted, Interrupts
from ppo.config import Algo, Env, RunConfig
from ppo.pack import Pack
from ppo.refusals import UserError
from ppo.train import train

SEED = 0
MOST = {"CartPole-v1": 500.0, "InvertedPendulum-v4": 1000.0}  # the highest return of an episode
STAGES = {"half": 0.5, "late": 0.9}  # a policy is the first whose mean return in training reaches this share of it
TRAINING = 102_400  # env steps, at most
BLOCKS = 32  # of episodes, for standard errors
CRITIC = 10 * BATCH  # env steps that the rungs' critics are fitted to
REFERENCE_CRITIC = 30 * BATCH  # and the references'
KL = 0.01  # nats: mean KL[the policy whose data the ratios weigh, the policy]
EPISODES = 4096  # per policy, at most

COLUMNS = {
    "task": "registered name",
    "policy": "initial | half | late",
    "rung": "in experiments.gradients.rungs.RUNGS",
    "return": "mean return of an episode of the policy",
    "episode_length": "its mean length, env steps",
    "episodes": "how many the estimate was measured on",
    "effective_episodes": "how many they are worth; with few, noise is a lower bound and bias unknown",
}
"""The first ones; `facts` names the others."""


def table(tasks: Sequence[str], env_steps: int) -> Iterator[dict[str, Any]]:
    """All rows, task by task and policy by policy."""
    for task in tasks:
        for name, policy in policies(task).items():
            print(f"{task}: the {name} policy", file=sys.stderr)
            yield from ({"task": task, "policy": name, **row} for row in rows(policy, f"gradients {name}", env_steps))


def policies(task: str) -> dict[str, Policy]:
    """Those of one run at its stages."""
    profile = read(CONF / "profile" / "ppo1_2017_08.yaml").profile
    backend = resolved_backend("auto", task)
    pack = Pack([RunConfig(Algo("clip", epsilon=0.2), profile, Env(task), backend, seed=SEED, env_steps=TRAINING)])
    present = Policy.present(pack)
    found = {"initial": present}
    for iteration in train(pack):
        returns = [episode.episode_return for episode in iteration.episodes[0]] or [-np.inf]
        for name, share in STAGES.items():
            if np.mean(returns) >= share * MOST[task]:
                found.setdefault(name, present)  # who acted in this iteration
        if len(found) == 1 + len(STAGES):
            return found
        present = Policy.present(pack)
    raise UserError(f"{task}: no policy of {TRAINING} env steps of training reached {max(STAGES.values()):.0%} of the "
                    f"highest return, {MOST[task]:g}")  # fmt: skip


def rows(policy: Policy, purpose: str, env_steps: int) -> Iterator[dict[str, Any]]:
    """A policy's row of every rung. `purpose` names the draws."""
    (first,) = play(policy, SEED, f"{purpose} length", 1, BLOCKS)
    length = first.lengths.mean()
    some, many = (
        list(play(policy, SEED, f"{purpose} {name}", -(-round(steps / length) // BLOCKS), BLOCKS))
        for name, steps in (("critic", CRITIC), ("reference critic", REFERENCE_CRITIC))
    )
    size = max(2, min(round(env_steps / length), EPISODES) // BLOCKS)
    critics = fit_critics(policy, some, (1.0, GAMMA), SEED)
    informed = fit_critics(policy, many, (1.0, GAMMA), SEED, with_clock=True)
    other = perturbed(policy, many, KL, SEED)

    episodes = list(play(policy, SEED, purpose, BLOCKS, size))
    references = blocks_of(policy, policy, informed, episodes, REFERENCES)
    own, foreign = on_policy(RUNGS), {name: each for name, each in RUNGS.items() if name not in on_policy(RUNGS)}
    estimates = blocks_of(policy, policy, critics, episodes, own)
    others = list(play(other, SEED, f"{purpose} other", BLOCKS, size))
    estimates |= blocks_of(policy, other, critics, others, foreign)
    effective = {"ratio_of_trajectories": effective_episodes(policy, other, others)}
    shared = {
        "return": np.mean([each.rewards.sum(axis=1).mean() for each in episodes]),
        "episode_length": np.mean([each.lengths.mean() for each in episodes]),
        "episodes": BLOCKS * size,
    }
    for name in RUNGS:
        known = references.get(KNOWN.get(name, ""))
        found = facts(estimates[name], references["undiscounted"], references["discounted"], known)
        yield {"rung": name, **shared, "effective_episodes": effective.get(name, float(BLOCKS * size)), **found}


def text_of(found: Sequence[dict[str, Any]]) -> str:
    """CSV, numbers to five digits."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(found[0]), lineterminator="\n")
    writer.writeheader()
    for row in found:
        writer.writerow({name: f"{x:.5g}" if isinstance(x, float) else x for name, x in row.items()})
    return out.getvalue()


@command(UserError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.gradients", description="Noise and bias, measured.")
    parser.add_argument("--out", metavar="FILE.csv", type=Path, required=True, help="the table")
    parser.add_argument("--env-steps", metavar="N", type=int, default=800_000, help="to measure on, per policy")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        with Interrupts():
            if options.env_steps < BATCH:
                raise UserError(f"--env-steps {options.env_steps} is less than one batch, {BATCH}")
            if not options.out.resolve().parent.is_dir():
                raise UserError(f"{options.out} cannot be written: its folder does not exist")
            write_durably(options.out, text_of(list(table(list(MOST), options.env_steps))).encode())
            return 0
    except Interrupted as interrupted:
        return 128 + interrupted.signum


if __name__ == "__main__":
    sys.exit(main())
