"""The cross-entropy method: a search over policy parameters by whole episodes, without gradients.

A generation draws candidates from independent normals, plays an episode with each, and fits the next generation's
normals to the best of them; extra noise, falling over the first generations, keeps them from narrowing too early.
Source: joschu/modular_rl@48456f9, modular_rl/cem.py (noisy CEM, doi:10.1162/neco.2006.18.12.2936).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ppo.actor_critic import Actor, NetworkActor
from ppo.declarations import Objective, Setting
from ppo.learner import Learner
from ppo.normalisation import ObservationFilter
from ppo.randomness import generator
from ppo.refusals import UserError
from ppo.spaces import Spaces

if TYPE_CHECKING:
    from ppo.config import Algo, RunConfig
    from ppo.rollout import Rollout


class CrossEntropyMethod(Learner):
    """The search of each of R runs over the P parameters that decide its likeliest actions. A run plays one candidate
    at a time, and always the likeliest action; an episode's end tells its return and brings the next candidate."""

    learns = True

    def __init__(self, runs: Sequence["RunConfig"], spaces: Spaces):
        super().__init__(runs, spaces)
        self.size, self.elites = self.algo.candidates, elites(self.algo)
        self.columns = torch.from_numpy(self.model.network.policy_columns())
        self.mean = self.flat[:, self.columns].cpu().numpy().astype(np.float64)
        self.variance = np.full_like(self.mean, self.algo.initial_variance)
        self.generation = np.zeros(len(runs), dtype=np.int64)
        self.returns: list[list[float]] = [[] for _ in runs]  # of this generation's candidates so far
        self.drawn = [self.candidates(run) for run in range(len(runs))]  # kept, for episodes can be very short
        for run in range(len(runs)):
            self.play_next(run)

    def std(self, run: int) -> np.ndarray:
        """Of the present generation's draws, (P,)."""
        share = max(1 - self.generation[run] / self.algo.extra_generations, 0.0)
        std: np.ndarray = np.sqrt(self.variance[run] + self.algo.extra_std**2 * share)
        return std

    def candidates(self, run: int) -> np.ndarray:
        """The present generation, (C, P), by its named draw."""
        rng = generator(self.runs[run].seed, "candidates", int(self.generation[run]))
        draws: np.ndarray = self.mean[run] + self.std(run) * rng.standard_normal((self.size, self.mean.shape[1]))
        return draws

    def play_next(self, run: int) -> None:
        """Let the next candidate be the policy that acts."""
        candidate = self.drawn[run][len(self.returns[run])]
        self.flat[run, self.columns] = torch.from_numpy(candidate).to(self.flat)

    def agent(self, sample: bool) -> Actor:
        """Plays the mean of the search; samples there are none."""
        flat = self.flat.clone()
        flat[:, self.columns] = torch.from_numpy(self.mean).to(flat)
        return NetworkActor(self.model, self.model.network.views(flat), sample=False)

    def acting(self) -> Actor:
        return NetworkActor(self.model, self.views, sample=False)

    def see_return(self, run: int, episode_return: float) -> bool:
        """Score the present candidate; a generation's last one brings the next generation."""
        self.returns[run].append(episode_return)
        if len(self.returns[run]) == self.size:
            best = np.argsort(self.returns[run], kind="stable")[-self.elites :]
            elite = self.drawn[run][best]
            self.mean[run], self.variance[run] = elite.mean(axis=0), elite.var(axis=0)
            self.generation[run] += 1
            self.returns[run] = []
            self.drawn[run] = self.candidates(run)
        self.play_next(run)
        return True

    def update(self, rollout: "Rollout", observation_filter: ObservationFilter, number: int) -> dict[str, np.ndarray]:
        """It has learned where episodes ended. Return the mean std of each run's draws."""
        return {"std": np.array([self.std(run).mean() for run in range(len(self.runs))])}

    def state_dict(self, run: int) -> dict[str, Any]:
        search = {
            "mean": self.mean[run].copy(),
            "variance": self.variance[run].copy(),
            "generation": int(self.generation[run]),
            "returns": np.array(self.returns[run]),
        }
        return super().state_dict(run) | {"search": search}

    def load_state_dict(self, run: int, state: Mapping[str, Any]) -> None:
        super().load_state_dict(run, state)
        search = state["search"]
        self.mean[run], self.variance[run] = search["mean"], search["variance"]
        self.generation[run] = search["generation"]
        self.returns[run] = [float(value) for value in search["returns"]]
        self.drawn[run] = self.candidates(run)


def elites(algo: "Algo") -> int:
    """Candidates that a generation keeps."""
    return round(algo.candidates * algo.elite_fraction)


def check(run: "RunConfig") -> None:
    """Raise UserError for a run that the search cannot train."""
    if elites(run.algo) < 1:
        raise UserError(f"algo.elite_fraction={run.algo.elite_fraction} keeps none of {run.algo.candidates} candidates")
    if run.profile.actors > 1:
        raise UserError(
            f"algo.objective=cem plays one candidate at a time; profile.actors={run.profile.actors} must be 1"
        )
    if run.profile.observation_filter == "per_rollout":
        raise UserError(
            "algo.objective=cem learns where episodes end, before profile.observation_filter=per_rollout moves; "
            "use per_step or none"
        )


CEM = Objective(
    "cem",
    settings=(
        Setting("candidates", "parameter vectors per generation, an episode each", "above 0", int),
        Setting("elite_fraction", "share of the candidates that the next generation is fitted to", "0 to 1"),
        Setting("initial_variance", "of each parameter in the first generation", "above 0"),
        Setting("extra_std", "added to the sampling noise, falling linearly", "at least 0"),
        Setting("extra_generations", "over which the extra noise falls to 0", "above 0"),
    ),
    check=check,
)
