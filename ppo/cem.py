"""The cross-entropy method: a search over policy parameters by whole episodes, without gradients.

A generation draws candidates from independent normals, plays an episode with each, and fits the next generation's
normals to the best of them; extra noise, falling over the first generations, keeps them from narrowing too early.
Source: joschu/modular_rl@48456f9, modular_rl/cem.py (noisy CEM, doi:10.1162/neco.2006.18.12.2936).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppo.config import Algo
from ppo.randomness import generator


class CrossEntropyMethod:
    """The search of each of R runs over P parameters; a run evaluates one candidate at a time."""

    def __init__(self, start: np.ndarray, algo: Algo, seeds: Sequence[int]):
        """start: (R, P), the first generation's means."""
        assert algo.candidates and algo.initial_variance and algo.extra_generations and algo.extra_std is not None
        self.algo, self.size, self.seeds = algo, algo.candidates, tuple(seeds)
        self.extra_std, self.extra_generations = algo.extra_std, algo.extra_generations
        self.mean = start.astype(np.float64)
        self.variance = np.full_like(self.mean, algo.initial_variance)
        self.generation = np.zeros(len(seeds), dtype=np.int64)
        self.returns: list[list[float]] = [[] for _ in seeds]  # of this generation's candidates so far
        self.drawn = [self.candidates(run) for run in range(len(seeds))]  # kept, for episodes can be very short

    def std(self, run: int) -> np.ndarray:
        """Of the present generation's draws, (P,)."""
        share = max(1 - self.generation[run] / self.extra_generations, 0.0)
        std: np.ndarray = np.sqrt(self.variance[run] + self.extra_std**2 * share)
        return std

    def candidates(self, run: int) -> np.ndarray:
        """The present generation, (C, P), by its named draw."""
        rng = generator(self.seeds[run], "candidates", int(self.generation[run]))
        draws: np.ndarray = self.mean[run] + self.std(run) * rng.standard_normal((self.size, self.mean.shape[1]))
        return draws

    def candidate(self, run: int) -> np.ndarray:
        """The parameters to play next, (P,)."""
        present: np.ndarray = self.drawn[run][len(self.returns[run])]
        return present

    def tell(self, run: int, episode_return: float) -> None:
        """What the present candidate scored; its generation's last one brings the next generation."""
        self.returns[run].append(episode_return)
        if len(self.returns[run]) == self.size:
            best = np.argsort(self.returns[run], kind="stable")[-self.algo.elites :]
            elite = self.drawn[run][best]
            self.mean[run], self.variance[run] = elite.mean(axis=0), elite.var(axis=0)
            self.generation[run] += 1
            self.returns[run] = []
            self.drawn[run] = self.candidates(run)

    def state_dict(self, run: int) -> dict[str, Any]:
        return {
            "mean": self.mean[run].copy(),
            "variance": self.variance[run].copy(),
            "generation": int(self.generation[run]),
            "returns": np.array(self.returns[run]),
        }

    def load_state_dict(self, run: int, state: Mapping[str, Any]) -> None:
        self.mean[run], self.variance[run] = state["mean"], state["variance"]
        self.generation[run] = state["generation"]
        self.returns[run] = [float(value) for value in state["returns"]]
        self.drawn[run] = self.candidates(run)
