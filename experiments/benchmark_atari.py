"""Speed and memory on frames, as ratios within one run.

python -m experiments.benchmark_atari [--rounds 3] [--device cpu]

Stable-Baselines3, one run and a pack of three, exact and fast, take turns on one core, each in a process of its own,
with the settings of profile=atari_ppo2 and the same frames: SB3 gets them from ALE's vector environment too.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
from hydra import initialize_config_dir

from experiments.benchmark import Figures, alone, as_table, speed_of, suite
from experiments.commands import command
from experiments.compose import CONF, NamedRun
from experiments.manifest import composed
from ppo.config import RunConfig
from ppo.refusals import UserError, positive

OVERRIDES = ("env=atari/pong", "profile=atari_ppo2", "algo=clip", "algo.epsilon=0.1", "tracking=none")
PACK = 3  # runs
ITERATIONS = 2  # measured, after one that warms up
PARTS = ("environment", "inference", "update", "bookkeeping")


def the_run(device: str) -> NamedRun:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        (run,) = composed([*OVERRIDES, f"device={device}"])
    return run


def sb3(run: RunConfig, iterations: int) -> Figures:
    """env steps/s of Stable-Baselines3's PPO on the same game, with the same settings."""
    import torch
    from stable_baselines3 import PPO

    torch.set_num_threads(1)
    assert run.algo.epsilon is not None
    p = run.profile
    model = PPO(
        "CnnPolicy", games_for_sb3(p.actors), learning_rate=p.stepsize, n_steps=p.horizon, n_epochs=p.epochs,
        gamma=p.gamma,
        batch_size=p.minibatch_size, gae_lambda=run.algo.gae_lambda, ent_coef=p.entropy_coef, device=run.device, seed=0,
        clip_range=run.algo.epsilon, clip_range_vf=p.value_clip, vf_coef=2 * p.value_coef,
    )  # fmt: skip
    return speed_of(model, p.steps, iterations)


def games_for_sb3(actors: int) -> Any:
    """ALE's vector environment of Pong as SB3 takes them."""
    from ale_py.vector_env import AtariVectorEnv
    from stable_baselines3.common.vec_env import VecEnv

    class Games(VecEnv):
        """ALE's vector environment as SB3 has them: it resets by itself."""

        def __init__(self) -> None:
            self.games = AtariVectorEnv("pong", actors, num_threads=1, autoreset_mode="SameStep")
            spaces = self.games.single_observation_space, self.games.single_action_space
            super().__init__(actors, *spaces)

        def reset(self) -> Any:
            return self.games.reset(seed=0)[0]

        def step_async(self, actions: np.ndarray) -> None:
            self.games.send(actions)

        def step_wait(self) -> Any:
            observations, rewards, terminated, truncated, _ = self.games.recv()
            return observations, rewards.astype(np.float32), terminated | truncated, [{} for _ in rewards]

        def close(self) -> None:
            pass

        def get_attr(self, name: str, indices: Any = None) -> list[Any]:
            return [None] * self.num_envs

        def set_attr(self, name: str, value: Any, indices: Any = None) -> None:
            pass

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            return [None] * self.num_envs

        def env_is_wrapped(self, wrapper: Any, indices: Any = None) -> list[bool]:
            return [False] * self.num_envs

    return Games()


def measure(run: NamedRun, rounds: int) -> Figures:
    """Medians over rounds; shares are of an exact pack's time."""
    packs = {
        numerics: [NamedRun(replace(run.config, seed=seed, numerics=numerics), run.names) for seed in range(PACK)]
        for numerics in ("exact", "fast")
    }
    seen: dict[str, list[Figures]] = defaultdict(list)
    for number in range(rounds):
        seen["sb3"].append(alone(sb3, run.config, ITERATIONS))
        for numerics, pack in packs.items():
            seen[f"single_{numerics}"].append(alone(suite, pack[:1], ITERATIONS))
            seen[f"pack_{numerics}"].append(alone(suite, pack, ITERATIONS))
        rates = "  ".join(f"{name} {figures[-1]['rate']:,.0f}" for name, figures in seen.items())
        print(f"round {number + 1} of {rounds}, env steps/s: {rates}", flush=True)

    def middle(name: str, figure: str) -> float:
        return median(figures[figure] for figures in seen[name])

    return {
        "single_vs_sb3": middle("single_exact", "rate") / middle("sb3", "rate"),
        "pack_vs_sb3": middle("pack_exact", "rate") / middle("sb3", "rate"),
        "single_vs_sb3_fast": middle("single_fast", "rate") / middle("sb3", "rate"),
        "pack_vs_sb3_fast": middle("pack_fast", "rate") / middle("sb3", "rate"),
        "peak_mb": middle("pack_exact", "peak_mb"),
        "peak_mb_fast": middle("pack_fast", "peak_mb"),
        **{f"share_{part}": middle("pack_exact", part) for part in PARTS},
        "sb3_steps_per_s": middle("sb3", "rate"),
    }


@command(UserError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark_atari", description="Speed on frames.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(arguments)
    positive("--rounds", options.rounds)
    print(as_table(measure(the_run(options.device), options.rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
