"""A run's agent at play in Gymnasium, for whoever shows or measures it."""

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from analysis import equal_codes
from experiments.arcade import Arcade
from experiments.files import numbered_in, read_json
from experiments.film import drawing, follow
from experiments.identity import code_id
from experiments.jobs.standing import proofs
from experiments.manifest import config_from
from experiments.records import checkpoint
from experiments.records.record import read_done, why
from experiments.records.schema import newer
from ppo.actor_critic import outgoing
from ppo.atari import SUFFIX
from ppo.config import Env
from ppo.environments import action_dtype
from ppo.normalisation import ObservationFilter
from ppo.randomness import MAX_SEED, generator
from ppo.refusals import UserError, near_matches
from ppo.spaces import Spaces


class Agent:
    """What a run had learned by its newest readable checkpoint; the observation filter stands still from there on."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            head = read_json(folder / "config.json")
            if why_not := newer(head):
                raise UserError(why_not)
            self.identity = {name: head[name] for name in ("run_id", "code_id")}
            # Wherever and however it was trained, it plays here.
            self.run = config_from({**head["config"], "device": "cpu", "numerics": "exact"})
        except (KeyError, TypeError, UserError) as error:
            raise UserError(f"{folder / 'config.json'} is no run of this code: {error}") from error
        self.done = read_done(folder)
        self.state = self._newest()
        self.env_steps = self.state["iteration"] * self.run.profile.steps

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

    def enter(self, env: gymnasium.Env[Any, Any], sample: bool) -> None:
        """Fit networks and filter to an environment's spaces, to act by samples or by the likeliest actions."""
        if isinstance(env, Arcade):
            self.spaces = env.spaces
        else:
            self.spaces = Spaces.of(self.run.env.id, env.observation_space, env.action_space)
        try:
            self.learner = self.run.algo.learner([self.run], self.spaces)
            self.filter = ObservationFilter(1, self.spaces.observation_size, self.run.profile)
            self.learner.load_state_dict(0, self.state)
            self.filter.load_state_dict(0, self.state["filter"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            code = self.identity["code_id"]
            raise UserError(f"{self.folder} (code {code}) does not fit the networks of this code") from error
        if not self.learner.are_finite().all():
            raise UserError(f"{self.folder} diverged: its policy gives no finite action")
        self.actor = self.learner.agent(sample)

    def values(self, observations: np.ndarray) -> np.ndarray:
        """The critic's V, (n, D) → (n,)."""
        return self.learner.values(self.filter.normalise(observations[None]))[0]

    def act(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Observation (D,), or frames (C, H, W) → action (A,) float64 or () int64."""
        x = self.filter.normalise(observation.astype(self.spaces.dtype)[None, None])
        action = self.actor.act(x, self.actor.draws(rng, 1)[None])[0, 0]
        if not np.isfinite(action).all():
            raise UserError(f"{self.folder} diverged: its policy gives no finite action")
        return outgoing(action, self.spaces, self.run.profile.clip_actions)


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


def episode(agent: Agent, env: gymnasium.Env[Any, Any], seed: int, number: int) -> Iterator[Moment]:
    """Episode `number`, whose randomness has its name, from its first moment to its last."""
    observation, _ = env.reset(seed=int(generator(seed, "watch environment", number).integers(MAX_SEED)))
    rng = generator(seed, "watch action", number)
    taken = np.int64 if isinstance(env, Arcade) else action_dtype(env)
    yield (now := Moment(observation))
    while not now.ended:
        action = agent.act(now.observation, rng).astype(taken, copy=False)
        observation, step, terminated, truncated, _ = env.step(action)
        reward = float(step)
        yield (now := Moment(observation, now.total + reward, now.length + 1, reward, terminated, truncated))


def say_other_code(agent: Agent) -> None:
    """On stderr, if the run is not of this code: whether a trace proved the two equal, or returns may differ."""
    trained, here = agent.identity["code_id"], code_id()
    if trained != here:
        equal = here in equal_codes.ways(trained, proofs())
        what = f"which a trace proved equal ({equal_codes.NAME})" if equal else "returns may differ"
        print(f"trained by code {trained}, this is {here}: {what}", file=sys.stderr)
