"""Sizes of a task."""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from ppo.refusals import UserError


@dataclass(frozen=True)
class Spaces:
    """Observations, numbers (D,) or frames (C, H, W); A action dimensions with bounds, or A discrete actions."""

    observation_shape: tuple[int, ...]
    action_size: int
    discrete: bool
    low: np.ndarray
    high: np.ndarray
    dtype: type[np.generic] = np.float64  # of observations

    @classmethod
    def of(cls, env_id: str, observation: gymnasium.Space[Any], action: gymnasium.Space[Any]) -> "Spaces":
        """Of a task of Gymnasium's or EnvPool's. Raises UserError for what is not supported."""
        if not isinstance(observation, gymnasium.spaces.Box) or len(observation.shape) != 1:
            raise UserError(f"{env_id}: observations are {observation}; only vectors of numbers are supported")
        if isinstance(action, gymnasium.spaces.Discrete):
            if action.start != 0:
                raise UserError(f"{env_id}: its discrete actions start at {action.start}; only 0 is supported")
            return cls(observation.shape, int(action.n), True, np.zeros(1), np.zeros(1))
        if not isinstance(action, gymnasium.spaces.Box) or len(action.shape) != 1:
            raise UserError(f"{env_id}: actions are {action}; only Discrete and vectors of numbers are supported")
        if action.dtype.kind != "f":
            raise UserError(
                f"{env_id}: actions are no real numbers, {action}; only Discrete and vectors of real ones are supported"
            )
        if 0 in (*observation.shape, *action.shape):
            raise UserError(f"{env_id}: observations {observation} or actions {action} hold no number at all")
        low, high = action.low.astype(np.float64), action.high.astype(np.float64)
        return cls(observation.shape, action.shape[0], False, low, high)

    @property
    def frames(self) -> bool:
        return len(self.observation_shape) == 3

    @property
    def observation_size(self) -> int:
        """D: how many numbers there are for a filter to shift and scale; none in frames."""
        return 0 if self.frames else self.observation_shape[0]
