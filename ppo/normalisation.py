"""Running statistics, strictly per run: the observation filter and the reward scale. Float64 throughout."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ppo.config import Profile


class RunningMoments:
    """Mean and variance of all that was seen, (R, D), a row per run; `prior` weighs mean 0, variance 1 before it."""

    def __init__(self, runs: int, size: int, prior: float):
        self.count = np.full((runs, 1), prior)
        self.mean = np.zeros((runs, size))
        self.variance = np.ones((runs, size))

    def merge(self, mean: np.ndarray, variance: np.ndarray, count: int) -> None:
        """Add `count` observations by their own moments, (R, D) (Chan's parallel formula)."""
        total = self.count + count
        difference = mean - self.mean
        self.variance = (
            self.variance * self.count + variance * count + np.square(difference) * self.count * count / total
        ) / total
        self.mean = self.mean + difference * count / total
        self.count = total

    def state_dict(self, row: int) -> dict[str, np.ndarray]:
        return {"count": self.count[row].copy(), "mean": self.mean[row].copy(), "variance": self.variance[row].copy()}

    def load_state_dict(self, row: int, state: Mapping[str, Any]) -> None:
        self.count[row] = state["count"]
        self.mean[row] = state["mean"]
        self.variance[row] = state["variance"]


class ObservationFilter:
    """Shift, scale and clip observations; when its statistics move is the profile's `observation_filter`.

    `per_rollout`: once, after collection and before optimisation (ppo1's policy). `per_step`: at each observation,
    before it is used (ppo2's VecNormalize).
    """

    def __init__(self, runs: int, size: int, profile: "Profile"):
        self.when = profile.observation_filter
        self.clip, self.floor, self.epsilon = profile.filter_clip, profile.filter_floor, profile.filter_epsilon
        self.moments = RunningMoments(runs, size, profile.filter_prior)
        self._rescale()

    def normalise(self, observations: np.ndarray) -> np.ndarray:
        """(R, …, D) float64 → the same shape, float32. Frames, uint8, stay as they are."""
        if self.when == "none":
            return observations if observations.dtype == np.uint8 else observations.astype(np.float32)
        each = (slice(None), *[None] * (observations.ndim - 2))
        x = (observations - self.moments.mean[each]) / self.std[each]
        if self.clip is not None:
            # Not np.clip, whose overhead would be a tenth of a lone run's step.
            np.minimum(np.maximum(x, -self.clip, out=x), self.clip, out=x)
        return x.astype(np.float32)

    def see(self, observations: np.ndarray) -> None:
        """One new observation per actor, (R, N, D), before it is used."""
        if self.when == "per_step":
            self.moments.merge(observations.mean(axis=1), observations.var(axis=1), observations.shape[1])
            self._rescale()

    def see_rollout(self, observations: np.ndarray) -> None:
        """A whole rollout, (R, N·T, D), after collection."""
        if self.when == "per_rollout":
            # Run by run: a sum over a run must not depend on how many runs lie beside it.
            mean = np.stack([run.mean(axis=0) for run in observations])
            variance = np.stack([run.var(axis=0) for run in observations])
            self.moments.merge(mean, variance, observations.shape[1])
            self._rescale()

    def _rescale(self) -> None:
        self.std = np.sqrt(np.maximum(self.moments.variance, self.floor) + self.epsilon)

    def state_dict(self, row: int) -> dict[str, np.ndarray]:
        return self.moments.state_dict(row)

    def load_state_dict(self, row: int, state: Mapping[str, Any]) -> None:
        self.moments.load_state_dict(row, state)
        self._rescale()


class RewardScale:
    """Divide rewards by the running std of the discounted return, then clip (openai/baselines, VecNormalize).

    The running return is zeroed at every episode end, time limits included; the earliest copies of that file did not.
    """

    PRIOR = 1e-4  # baselines@2dd7d30 common/running_mean_std.py
    EPSILON = 1e-8  # baselines@2dd7d30 common/vec_env/vec_normalize.py

    def __init__(self, runs: int, profile: "Profile", gamma: np.ndarray):
        """gamma: (R, 1)."""
        self.on, self.clip, self.gamma = profile.scale_rewards, profile.reward_clip, gamma
        self.moments = RunningMoments(runs, 1, self.PRIOR)
        self.returns = np.zeros((runs, profile.actors))

    def scale(self, rewards: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """A rollout's rewards, (R, N, T), in order."""
        scaled = rewards.copy()
        for t in range(rewards.shape[-1] if self.on else 0):
            self.returns = self.returns * self.gamma + rewards[..., t]
            mean, variance = self.returns.mean(axis=1, keepdims=True), self.returns.var(axis=1, keepdims=True)
            self.moments.merge(mean, variance, self.returns.shape[1])
            scaled[..., t] /= np.sqrt(self.moments.variance + self.EPSILON)
            self.returns[ended[..., t]] = 0.0
        return scaled if self.clip is None else np.clip(scaled, -self.clip, self.clip)

    def state_dict(self, row: int) -> dict[str, Any]:
        return {"moments": self.moments.state_dict(row), "returns": self.returns[row].copy()}

    def load_state_dict(self, row: int, state: Mapping[str, Any]) -> None:
        self.moments.load_state_dict(row, state["moments"])
        self.returns[row] = state["returns"]
