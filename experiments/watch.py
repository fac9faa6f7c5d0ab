"""A run's agent at play in Gymnasium: its returns and, if asked, a film or a window.

python -m experiments.watch Hopper-v4-clip_0.2.s3 --episodes 3 --out hopper.mp4
"""

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from experiments.arcade import Arcade
from experiments.compose import build
from experiments.files import numbered_in, read_json
from experiments.film import Film, check_ending, drawing, follow, has_display
from experiments.identity import code_id
from experiments.records import checkpoint
from experiments.records.find import find_run
from experiments.records.record import read_done, why
from ppo.atari import SUFFIX
from ppo.config import Algo, Env, Profile
from ppo.environments import action_dtype
from ppo.networks import Network
from ppo.normalisation import ObservationFilter
from ppo.policies import distribution_class
from ppo.randomness import MAX_SEED, generator
from ppo.refusals import UserError, names_draws, near_matches, positive
from ppo.spaces import Spaces


class Agent:
    """What a run had learned by its newest readable checkpoint; the observation filter stands still from there on."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            head = read_json(folder / "config.json")
            self.identity = {name: head[name] for name in ("run_id", "code_id")}
            self.algo: Algo = build(Algo, head["config"]["algo"], "algo.")
            self.profile: Profile = build(Profile, head["config"]["profile"], "profile.")
            self.env: Env = build(Env, head["config"]["env"], "env.")
        except (KeyError, TypeError, UserError) as error:
            raise UserError(f"{folder / 'config.json'} is no run of this code: {error}") from error
        self.done = read_done(folder)
        self.state = self._newest()
        self.env_steps = self.state["iteration"] * self.profile.steps

    def _newest(self) -> dict[str, Any]:
        """From the attempt that finished, or else the newest one that has a readable checkpoint."""
        attempts = [self.folder / f"attempt-{number}" for number in numbered_in(self.folder, "attempt-")]
        if self.done is not None:
            attempts = [self.folder / f"attempt-{self.done['attempt']}"]
        for path in (checkpoint.path_of(place, i) for place in attempts for i in checkpoint.iterations_in(place)):
            try:
                return checkpoint.load(path, self.identity)["state"]
            except checkpoint.Refused as refused:
                print(f"{refused}; an older one is tried", file=sys.stderr)
        raise UserError(f"{self.folder} has no readable checkpoint yet; training writes them as it goes, and at Ctrl-C")

    def standing(self) -> str:
        """What the run itself says of its score."""
        if self.done is None:
            return f"the run is still in training, env step {self.env_steps:,}"
        score = "none" if self.done["score"] is None else f"{self.done['score']:.1f}"
        return f"the run's own score: {score} ({self.done['status']}{why(self.done)}; its last 100 training episodes)"

    def enter(self, env: gymnasium.Env[Any, Any]) -> None:
        """Fit the networks to an environment's spaces."""
        if isinstance(env, Arcade):
            self.spaces = env.spaces
        else:
            self.spaces = Spaces.of(self.env.id, env.observation_space, env.action_space)
        spaces = self.spaces
        self.distribution = distribution_class(self.profile.policy, spaces.discrete, self.env.id)
        self.network = Network(spaces.observation_shape, spaces.action_size, not spaces.discrete, self.profile)
        self.filter = ObservationFilter(1, spaces.observation_size, self.profile)
        flat, seen = torch.as_tensor(self.state.get("parameters", []))[None], self.state.get("filter", {})
        if flat.shape != (1, self.network.size) or np.shape(seen.get("mean")) != (spaces.observation_size,):
            raise UserError(f"{self.folder} (code {self.identity['code_id']}) does not fit the networks of this code")
        if self.algo.objective == "cem":  # its parameters are the candidate that was being played
            flat = flat.clone()
            flat[0, self.network.policy_columns()] = torch.as_tensor(self.state["search"]["mean"]).to(flat)
        self.tensors = self.network.views(flat)
        self.parameters = {name: view.numpy() for name, view in self.tensors.items()}
        self.filter.load_state_dict(0, seen)

    def values(self, observations: np.ndarray) -> np.ndarray:
        """The critic's V, (n, D) → (n,)."""
        x = torch.from_numpy(self.filter.normalise(observations[None]))
        with torch.no_grad():
            return self.network.value(self.tensors, x)[0].numpy()

    def policy(self, observations: np.ndarray) -> np.ndarray:
        """The network's output, (1, n, …) → (1, n, A); convolutions are torch's."""
        x = self.filter.normalise(observations)
        if not self.spaces.frames:
            return self.network.policy(self.parameters, x)
        with torch.no_grad():
            return self.network.policy(self.tensors, torch.from_numpy(x)).numpy()

    def manner(self, sample: bool) -> str:
        """How it chooses actions: the likeliest (a Gaussian's mean), or a sample if asked. CEM knows no samples."""
        if self.algo.objective == "random":
            return "uniform"
        return "sampled" if sample and self.algo.objective != "cem" else "likeliest"

    def act(self, observation: np.ndarray, rng: np.random.Generator, sample: bool) -> np.ndarray:
        """Observation (D,), or frames (C, H, W) → action (A,) float64 or () int64."""
        spaces, size = self.spaces, self.spaces.action_size
        if self.manner(sample) == "uniform":
            return np.asarray(rng.integers(size) if spaces.discrete else rng.uniform(spaces.low, spaces.high))
        policy = self.policy(observation.astype(spaces.dtype)[None, None])
        if not np.isfinite(policy).all():
            raise UserError(f"{self.folder} diverged: its policy gives no finite action")
        noise = self.distribution.noise(rng, 1, size)[None, None]
        perturbation = self.distribution.perturbation(self.parameters, noise)[:, :, 0]
        action = self.distribution.act(
            policy, perturbation if self.manner(sample) == "sampled" else np.zeros_like(policy)
        )[0, 0]
        if spaces.discrete:
            return action
        action = action.astype(np.float64)
        return action.clip(spaces.low, spaces.high) if self.profile.clip_actions else action


def open_environment(task: Env, film: bool, window: bool) -> gymnasium.Env[Any, Any]:
    """The task in Gymnasium, able to draw if that is asked; UserError if it has no such task or cannot."""
    if task.id.endswith(SUFFIX):
        if window:
            raise UserError("--window: games of Atari are filmed, not shown; --out film.mp4")
        return Arcade(task)
    env_id, mode = task.id, "human" if window else "rgb_array" if film else None
    try:
        gymnasium.spec(env_id)
    except (gymnasium.error.Error, ImportError) as error:
        near = near_matches(env_id, list(gymnasium.registry))
        raise UserError(f"Gymnasium, where agents are watched, has no task {env_id}{near}") from error
    if film:
        os.environ.update(drawing(env_id))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*out of date.*", category=DeprecationWarning)
        drawn: dict[str, Any] = {} if mode is None else {"render_mode": mode}  # not every task knows the word
        env = gymnasium.make(env_id, max_episode_steps=task.max_episode_steps, **drawn)
    follow(env)
    return env


class Moment(NamedTuple):
    """Where an episode stands."""

    observation: np.ndarray
    total: float = 0.0  # return so far, raw reward
    length: int = 0  # env steps so far
    reward: float = 0.0  # of the action that led here
    terminated: bool = False
    truncated: bool = False

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated


def episode(agent: Agent, env: gymnasium.Env[Any, Any], seed: int, number: int, sample: bool) -> Iterator[Moment]:
    """Episode `number`, whose randomness has its name, from its first moment to its last."""
    observation, _ = env.reset(seed=int(generator(seed, "watch environment", number).integers(MAX_SEED)))
    rng = generator(seed, "watch action", number)
    taken = np.int64 if isinstance(env, Arcade) else action_dtype(env)
    yield (now := Moment(observation))
    while not now.ended:
        action = agent.act(now.observation, rng, sample).astype(taken, copy=False)
        observation, step, terminated, truncated, _ = env.step(action)
        reward = float(step)
        yield (now := Moment(observation, now.total + reward, now.length + 1, reward, terminated, truncated))


def play(
    agent: Agent, env: gymnasium.Env[Any, Any], seed: int, number: int, sample: bool, film: Film | None
) -> tuple[float, int]:
    """Episode `number`, filmed up to its last action: the return and the length in env steps."""
    for now in episode(agent, env, seed, number, sample):
        if film is not None and not now.ended:
            film.take(env.render)
    return now.total, now.length


def say_other_code(agent: Agent) -> None:
    """On stderr, if the run is not of this code."""
    if agent.identity["code_id"] != code_id():
        print(f"trained by code {agent.identity['code_id']}, this is {code_id()}: returns may differ", file=sys.stderr)


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
    env = open_environment(agent.env, out is not None, window)
    film = None if out is None else Film(out, env.metadata.get("render_fps", 30))
    try:
        agent.enter(env)
        print(f"{agent.folder.name} at env step {agent.env_steps:,}, {agent.manner(sample)} actions")
        results = []
        for number in range(episodes):
            results.append(play(agent, env, seed, number, sample, film))
            print("episode {}: return {:.1f}, length {}".format(number, *results[-1]), flush=True)
    finally:
        env.close()
        if film is not None:
            film.close()
    mean = sum(result[0] for result in results) / episodes
    print(f"mean return {mean:.1f}; {agent.standing()}")


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
    try:
        watch(**vars(parser.parse_args(arguments)))
    except (UserError, OSError, gymnasium.error.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
