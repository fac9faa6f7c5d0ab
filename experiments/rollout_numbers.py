"""The numbers of a rollout that estimators of returns start from, one line per env step, for `analysis` to draw:

python -m experiments.rollout_numbers CartPole-v1-clip_0.2.s0 --steps 1024 --out analysis/road/rollout.csv

The run's agent plays on from its newest checkpoint with sampled actions, as in training, through as many episodes as
the rollout holds. The same command writes the same bytes.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from experiments.agent import Agent, episode, open_environment, say_other_code
from experiments.commands import command
from experiments.files import write_durably
from experiments.records.find import find_run
from ppo.refusals import UserError, names_draws, positive

COLUMNS = ("t", "episode", "reward", "value", "next_value", "terminated", "truncated")


def rows_of(agent: Agent, env: gymnasium.Env[Any, Any], seed: int, steps: int) -> list[tuple[object, ...]]:
    """One row of COLUMNS per env step; `next_value` is V of what followed, the final state where an episode ended."""
    played = ((number, pair) for number in count() for pair in pairwise(episode(agent, env, seed, number)))
    transitions = list(islice(played, steps))
    values, next_values = (
        agent.values(np.array([pair[which].observation for _, pair in transitions], dtype=np.float64))
        for which in (0, 1)
    )
    return [
        (t, number, f"{now.reward:.6g}", f"{value:.6g}", f"{following:.6g}", int(now.terminated), int(now.truncated))
        for t, ((number, (_, now)), value, following) in enumerate(zip(transitions, values, next_values, strict=True))
    ]


def export(run: str, records: Path, seed: int, steps: int, out: Path) -> None:
    """Write the file; UserError for a run whose critic says nothing of raw rewards."""
    positive("--steps", steps)
    names_draws(f"--seed {seed}", seed)
    agent = Agent(find_run(run, records))
    if not agent.run.algo.learner.trains_critic:
        raise UserError(f"{agent.folder.name} has no critic: algo.objective={agent.run.algo.objective} trains none")
    if agent.run.profile.scale_rewards:
        raise UserError(f"{agent.folder.name}: its critic counts in scaled rewards (profile.scale_rewards), not in raw")
    say_other_code(agent)
    torch.set_num_threads(1)
    env = open_environment(agent.run.env, film=False, window=False)
    try:
        agent.enter(env, sample=True)
        rows = rows_of(agent, env, seed, steps)
    finally:
        env.close()
    name = agent.folder.name.rpartition("-")[0]
    gamma, gae_lambda = agent.run.profile.gamma, agent.run.algo.gae_lambda
    story = f"# run={name} env_steps={agent.env_steps} gamma={gamma} gae_lambda={gae_lambda}"
    lines = [story, ",".join(COLUMNS), *(",".join(map(str, row)) for row in rows)]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_durably(out, ("\n".join(lines) + "\n").encode())
    print(f"{out}: {len(rows)} env steps of {name}, after {agent.env_steps:,} of training")


@command(UserError, OSError, gymnasium.error.Error)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.rollout_numbers", description="A rollout's rewards and values as a CSV file."
    )
    parser.add_argument("run", help="its folder, anything inside it, or the beginning of its name or id")
    parser.add_argument("--records", type=Path, default=Path("records"), help="where names are looked up")
    parser.add_argument("--seed", type=int, default=0, help="of the environment and the samples, not the run's")
    parser.add_argument("--steps", type=int, default=1024, help="the rollout's length (default: 1024)")
    parser.add_argument("--out", type=Path, required=True)
    export(**vars(parser.parse_args(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
