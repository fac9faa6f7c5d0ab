"""Hand-made tasks: what they do is known to the last number."""

from collections.abc import Iterator
from contextlib import contextmanager

import gymnasium
import numpy as np

from ppo.environments import Environments

BACKENDS = ("envpool", "gymnasium")


def uniform(rng: np.random.Generator, environments: Environments, times: float = 1.0) -> np.ndarray:
    """Random actions for all runs, up to `times` the bounds."""
    spaces, runs = environments.spaces, len(environments.ids)
    if spaces.discrete:
        return rng.integers(spaces.action_size, size=runs)
    return times * rng.uniform(spaces.low, spaces.high, (runs, spaces.action_size))


def advance(environments: Environments, rng: np.random.Generator, steps: int, reset_chance: float = 0.0) -> list:
    """Steps with resets where episodes end, and now and then elsewhere; returns all that was seen."""
    seen = []
    for _ in range(steps):
        rewards, terminated, truncated = environments.step(uniform(rng, environments))
        seen += [rewards, terminated, truncated, environments.observations.copy()]
        over = np.flatnonzero(terminated | truncated | (rng.random(len(environments.ids)) < reset_chance))
        if over.size:
            environments.reset(over)
            seen.append(environments.observations.copy())
    environments.forget()
    return seen


class Counter(gymnasium.Env):
    """Observes (episode, step); the reward is the step. Odd episodes terminate after 3 steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(2)
    wobble = False  # a reward-free draw from np_random in every step

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.episode = seed % 2
        self.episode, self.steps = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        return self._observation(), float(self.steps), self.episode % 2 == 1 and self.steps == 3, False, {}

    def _observation(self):
        return np.array([self.episode, self.steps + (self.np_random.random() if self.wobble else 0)], dtype=np.float64)


class Wobbly(Counter):
    wobble = True


class Noisy(Counter):
    """Draws what its observations do not show."""

    def step(self, action):
        self.np_random.random()
        return super().step(action)


class Lifelong(Counter):
    """Rewards by how many steps it ever took, as a bonus that decays."""

    taken = 0

    def step(self, action):
        self.taken += 1
        observation, _, *rest = super().step(action)
        return observation, float(self.taken), *rest


class OwnDice(Counter):
    """Draws from a generator that no seed reaches, and shows it in no observation or reward."""

    def __init__(self):
        self.dice = np.random.default_rng(0)

    def step(self, action):
        self.dice.random()
        return super().step(action)


class Fitful(Counter):
    """Shows in its rewards what it draws from a generator that cannot be found."""

    def __init__(self):
        self.dice = [np.random.default_rng(0)]

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, reward + self.dice[0].random(), *rest


OURS = {
    "TestCounter-v0": Counter,
    "TestWobbly-v0": Wobbly,
    "TestNoisy-v0": Noisy,
    "TestLifelong-v0": Lifelong,
    "TestOwnDice-v0": OwnDice,
    "TestFitful-v0": Fitful,
    "TestScaled-v0": lambda: gymnasium.wrappers.NormalizeReward(Counter()),
}


@contextmanager
def registry() -> Iterator[None]:
    """All of these under their names, with a time limit of 5 steps."""
    for name, env in OURS.items():
        gymnasium.register(name, env, max_episode_steps=5, disable_env_checker=True)
    try:
        yield
    finally:
        for name in OURS:
            del gymnasium.registry[name]
