"""A learner: what R runs that train together have learned, how they act, and what they make of a rollout.

`Learner` is what all learners share, and by itself a policy that never learns. `learners.LEARNERS` has them all.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ppo.actor_critic import Actor, ActorCritic, NetworkActor, UniformActor
from ppo.normalisation import ObservationFilter, RewardScale
from ppo.objectives import ADAPTED
from ppo.optimisers import optimiser
from ppo.refusals import UserError
from ppo.spaces import Spaces

if TYPE_CHECKING:
    from ppo.config import RunConfig
    from ppo.rollout import Rollout


class Learner:
    """Networks, optimisers and adaptive numbers of R runs, row r those of run r. It acts, and leaves all as it began.

    A learner of another kind replaces `acting`, `agent`, `see_return` and `update`, and adds to both state methods
    what it must remember.
    """

    learns = False  # does anything but the observation filter change?
    trains_critic = False

    def __init__(self, runs: Sequence["RunConfig"], spaces: Spaces):
        """runs: those of one pack, in its order. Raises UserError where they do not fit the task."""
        self.runs, self.algo, self.profile, self.numerics = runs, runs[0].algo, runs[0].profile, runs[0].numerics
        self.model = ActorCritic(runs[0], spaces)
        self.flat = self.model.initial([run.seed for run in runs])  # (R, P)
        self.views = self.model.network.views(self.flat)
        separate = self.profile.value_fit == "separate"
        self.optimisers = [optimiser(self.flat, self.profile) for _ in range(2 if separate else 1)]  # the second: of V
        self.reward_scale = RewardScale(len(runs), self.profile, column(runs, "gamma"))
        self.settings = {name: column(runs, name) for name, each in self.algo.known_settings.items() if each.per_run}
        own = (name for run in runs for name in run.algo.declared.adapts)
        self.adapted = tuple(dict.fromkeys((*ADAPTED, *own)))  # settings that move, and so must be remembered
        self.stepsize = column(runs, "stepsize")
        self.average: Tensor | None = self.flat.clone() if self.algo.average_decay is not None else None

    def agent(self, sample: bool) -> Actor:
        """Actors by what was learned: their actions are samples, or the likeliest."""
        return NetworkActor(self.model, self.views, sample)

    def acting(self) -> Actor:
        """Actors for training, by the present parameters."""
        return self.agent(sample=True)

    def values(self, x: np.ndarray) -> np.ndarray:
        """V(x), (R, B, …) → (R, B) float32."""
        with torch.no_grad():
            return self.model.values(self.views, self.model.tensor(x)).cpu().numpy()

    def see_return(self, run: int, episode_return: float) -> bool:
        """Learn that an episode of a run has ended. True if the run must act by other parameters from here on."""
        return False

    def update(self, rollout: "Rollout", observation_filter: ObservationFilter, number: int) -> dict[str, np.ndarray]:
        """Learn from rollout `number`, from 0, and let the filter see it. Return diagnostics, (R,) float64 each."""
        return {}

    def are_finite(self) -> np.ndarray:
        """Which runs' parameters are all finite: (R,) bool."""
        return torch.isfinite(self.flat).all(dim=1).cpu().numpy()

    def state_dict(self, run: int) -> dict[str, Any]:
        return {
            "parameters": self.flat[run].cpu().clone(),
            "optimisers": [each.state_dict(run) for each in self.optimisers],
            **{name: float(self.settings[name][run, 0]) for name in self.adapted},
            "stepsize": float(self.stepsize[run, 0]),
            **({} if self.average is None else {"average": self.average[run].cpu().clone()}),
            "reward_scale": self.reward_scale.state_dict(run),
        }

    def load_state_dict(self, run: int, state: Mapping[str, Any]) -> None:
        self.flat[run] = torch.as_tensor(state["parameters"], device=self.flat.device)
        for each, remembered in zip(self.optimisers, state["optimisers"], strict=True):
            each.load_state_dict(run, remembered)
        for name in self.adapted:
            self.settings[name][run] = state[name]
        self.stepsize[run] = state["stepsize"]
        if self.average is not None:
            self.average[run] = torch.as_tensor(state["average"], device=self.flat.device)
        self.reward_scale.load_state_dict(run, state["reward_scale"])


class Uniform(Learner):
    """Uniformly random actions."""

    def __init__(self, runs: Sequence["RunConfig"], spaces: Spaces):
        if not (spaces.discrete or np.isfinite(spaces.high - spaces.low).all()):
            raise UserError(f"{runs[0].env.id}: its actions have no bounds, so uniform random ones do not exist")
        super().__init__(runs, spaces)

    def agent(self, sample: bool) -> Actor:
        return UniformActor(self.model.spaces)


def column(runs: Sequence["RunConfig"], name: str) -> np.ndarray:
    """A per-run setting as (R, 1) float64; NaN where a run has none."""
    values = [getattr(run.algo if name in run.algo.known_settings else run.profile, name) for run in runs]
    return np.array([[np.nan if value is None else value] for value in values], dtype=np.float64)
