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


class Search:
    """The search of each of R runs over P parameters; a run scores one candidate at a time."""

    def __init__(self, start: np.ndarray, algo: "Algo", seeds: Sequence[int]):
        """start: (R, P), the first generation's means."""
        self.algo, self.seeds = algo, tuple(seeds)
        self.mean = start.astype(np.float64)
        self.variance = np.full_like(self.mean, algo.initial_variance)
        self.generation = np.zeros(len(seeds), dtype=np.int64)
        self.returns: list[list[float]] = [[] for _ in seeds]  # of this generation's candidates so far
        self.drawn = [self.candidates(run) for run in range(len(seeds))]  # kept, for episodes can be very short

    def std(self, run: int) -> np.ndarray:
        """Of the present generation's draws, (P,)."""
        share = max(1 - self.generation[run] / self.algo.extra_generations, 0.0)
        std: np.ndarray = np.sqrt(self.variance[run] + self.algo.extra_std**2 * share)
        return std

    def candidates(self, run: int) -> np.ndarray:
        """The present generation, (C, P), by its named draw."""
        rng = generator(self.seeds[run], "candidates", int(self.generation[run]))
        noise = rng.standard_normal((self.algo.candidates, self.mean.shape[1]))
        drawn: np.ndarray = self.mean[run] + self.std(run) * noise
        return drawn

    def candidate(self, run: int) -> np.ndarray:
        """The parameters to play next, (P,)."""
        present: np.ndarray = self.drawn[run][len(self.returns[run])]
        return present

    def score(self, run: int, episode_return: float) -> None:
        """Take the return of the present candidate; a generation's last one brings the next generation."""
        self.returns[run].append(episode_return)
        if len(self.returns[run]) == self.algo.candidates:
            best = np.argsort(self.returns[run], kind="stable")[-elites(self.algo) :]
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


class CrossEntropyMethod(Learner):
    """R runs that search the parameters which decide their likeliest actions. An episode is one candidate's: its end
    gives the candidate its score and the run the next one. A run always takes the likeliest action."""

    learns = True

    def __init__(self, runs: Sequence["RunConfig"], spaces: Spaces):
        super().__init__(runs, spaces)
        self.columns = torch.from_numpy(self.model.network.policy_columns())
        self.search = Search(self.flat[:, self.columns].cpu().numpy(), self.algo, [run.seed for run in runs])
        for run in range(len(runs)):
            self.play_next(run)

    def play_next(self, run: int) -> None:
        """Let the next candidate be the policy that acts."""
        self.flat[run, self.columns] = torch.from_numpy(self.search.candidate(run)).to(self.flat)

    def acting(self) -> Actor:
        return NetworkActor(self.model, self.views, sample=False)

    def agent(self, sample: bool) -> Actor:
        """The mean of the search is what it has learned."""
        flat = self.flat.clone()
        flat[:, self.columns] = torch.from_numpy(self.search.mean).to(flat)
        return NetworkActor(self.model, self.model.network.views(flat), sample=False)

    def see_return(self, run: int, episode_return: float) -> bool:
        self.search.score(run, episode_return)
        self.play_next(run)
        return True

    def update(self, rollout: "Rollout", observation_filter: ObservationFilter, number: int) -> dict[str, np.ndarray]:
        """It has learned where episodes ended. Return the mean std of each run's draws."""
        return {"std": np.array([self.search.std(run).mean() for run in range(len(self.runs))])}

    def state_dict(self, run: int) -> dict[str, Any]:
        return super().state_dict(run) | {"search": self.search.state_dict(run)}

    def load_state_dict(self, run: int, state: Mapping[str, Any]) -> None:
        super().load_state_dict(run, state)
        self.search.load_state_dict(run, state["search"])


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
