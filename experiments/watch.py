"""A run's agent at play in Gymnasium: its returns and, if asked, a film or a window.

python -m experiments.watch Hopper-v4-clip_0.2.s3 --episodes 3 --out hopper.mp4
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium

from experiments.agent import Agent, episode, open_environment, say_other_code
from experiments.commands import command
from experiments.film import Film, check_ending, has_display
from experiments.records.find import find_run
from ppo.refusals import UserError, names_draws, positive


def play(agent: Agent, env: gymnasium.Env[Any, Any], seed: int, number: int, film: Film | None) -> tuple[float, int]:
    """Episode `number`, filmed up to its last action: the return and the length in env steps."""
    for now in episode(agent, env, seed, number):
        if film is not None and not now.ended:
            film.take(env.render)
    return now.total, now.length


def watch(run: str, records: Path, episodes: int, sample: bool, seed: int, out: Path | None, window: bool) -> None:
    """Play a run's agent, print its returns, and film it or show it in a window; UserError for what does not fit."""
    positive("--episodes", episodes)
    names_draws(f"--seed {seed}", seed)
    if out is not None:
        check_ending(out)
    if window and not has_display():
        raise UserError("--window: there is no display here (DISPLAY is not set); film it with --out film.mp4")
    agent = Agent(find_run(run, records))
    say_other_code(agent)
    env = open_environment(agent.run.env, out is not None, window)
    film = None if out is None else Film(out, env.metadata.get("render_fps", 30))
    try:
        agent.enter(env, sample)
        print(f"{agent.folder.name} at env step {agent.env_steps:,}, {agent.actor.manner} actions")
        results = []
        for number in range(episodes):
            results.append(play(agent, env, seed, number, film))
            print("episode {}: return {:.1f}, length {}".format(number, *results[-1]), flush=True)
    finally:
        env.close()
        if film is not None:
            film.close()
    mean = sum(result[0] for result in results) / episodes
    print(f"mean return {mean:.1f}; {agent.standing()}")


@command(UserError, OSError, gymnasium.error.Error)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.watch", description="A run's agent at play.")
    parser.add_argument("run", help="its folder, anything inside it, or the beginning of its name or id")
    parser.add_argument("--records", type=Path, default=Path("records"), help="where names are looked up")
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--sample", action="store_true", help="sample actions as in training (default: the likeliest)")
    parser.add_argument("--seed", type=int, default=0, help="of the environment and the samples, not the run's")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--out", type=Path, help="film it: FILE.mp4 or FILE.gif")
    shown.add_argument("--window", action="store_true", help="show it")
    watch(**vars(parser.parse_args(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
