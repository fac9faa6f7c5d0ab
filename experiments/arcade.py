"""A game of Atari to watch, as Gymnasium would have it: what the agent sees, and a picture of it."""

from typing import Any

import gymnasium
import numpy as np

from ppo.atari import Ale
from ppo.config import Env

ENLARGED = 4  # times, of the picture


class Arcade(gymnasium.Env[np.ndarray, np.ndarray]):
    """The environment of training with whole games, raw scores and no pause at a lost life."""

    metadata = {"render_fps": 15}  # env steps of four frames at 60 a second

    def __init__(self, task: Env):
        self.task = task
        self.game = Ale(task, [0])
        self.spaces = self.game.spaces

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.game = Ale(self.task, [0 if seed is None else seed])
        self.observation = self.game.reset(np.array([0]))[0]
        return self.observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observations, rewards, over, truncated = self.game.step(action[None], np.array([0]))
        self.observation = observations[0]
        return self.observation, float(rewards[0]), bool(over[0]), bool(truncated[0]), {}

    def render(self) -> Any:
        """The newest frame that the agent sees, (H, W, 3) uint8: grey, enlarged."""
        picture = self.observation[-1].repeat(ENLARGED, 0).repeat(ENLARGED, 1)
        return np.stack([picture] * 3, axis=-1)
