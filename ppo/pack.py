"""A pack: runs of one environment that train together, and everything they must remember.

The members differ only in seed and in settings that are numbers (`config.PER_RUN`). Row r of every tensor belongs to
run r and to nobody else; a member that diverges or whose environment is faulty is masked and disturbs no mate.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ppo.cem import CrossEntropyMethod
from ppo.config import SETTINGS, RunConfig, pack_key
from ppo.declarations import Objective
from ppo.environments import Environments, TaskError
from ppo.networks import Network, initialise
from ppo.normalisation import ObservationFilter, RewardScale
from ppo.numerics import precision, prepare
from ppo.objectives import ADAPTED, OBJECTIVES
from ppo.optimisers import optimiser
from ppo.policies import Categorical, Distribution, Gaussian, distribution_class
from ppo.randomness import MAX_SEED, generator
from ppo.refusals import UserError

MUST_BE_FINITE = ("actions", "rewards", "observations", "parameters")
"""What ends a run where it is not, causes before effects within one env step."""


class NotFinite(NamedTuple):
    """What ended a run before its budget: the first quantity of it that was NaN or infinite."""

    quantity: str  # one of MUST_BE_FINITE
    env_step: int  # of the run: the step the actions were meant for, or that handed out the rest

    @property
    def status(self) -> str:
        """`faulty` if the environment handed it out, or else `diverged`."""
        return "faulty" if self.quantity in ("rewards", "observations") else "diverged"


class Pack:
    """State of R runs. `runs` is sorted by objective, so that each objective sees one slice of rows."""

    def __init__(self, runs: Sequence[RunConfig]):
        if len({pack_key(run) for run in runs}) != 1:
            raise UserError("these runs cannot share a pack: they differ in more than seed and per-run numbers")
        self.runs = sorted(runs, key=lambda run: list(OBJECTIVES).index(run.algo.objective))
        self.algo, self.profile = self.runs[0].algo, self.runs[0].profile
        self.iterations = self.runs[0].iterations
        self.rollout = 0  # how many were collected and learnt from
        self.alive = np.ones(len(self.runs), dtype=bool)
        self.not_finite: list[NotFinite | None] = [None] * len(self.runs)  # why a run is not alive

        if self.runs[0].device == "cuda" and not torch.cuda.is_available():
            raise UserError("device=cuda, but torch sees no GPU here; use device=cpu or a machine with one")
        self.device = torch.device(self.runs[0].device)
        self.numerics = self.runs[0].numerics
        prepare(self.numerics)
        actors = self.profile.actors
        seeds = [generator(run.seed, "environment").integers(MAX_SEED, size=actors) for run in self.runs]
        self.environments = Environments(self.runs[0].env, self.runs[0].backend, np.concatenate(seeds).tolist())
        self.spaces = spaces = self.environments.spaces
        if self.algo.objective == "random" and not (spaces.discrete or np.isfinite(spaces.high - spaces.low).all()):
            raise UserError(f"{self.runs[0].env.id}: its actions have no bounds, so uniform random ones do not exist")

        if spaces.frames and self.profile.observation_filter != "none":
            raise UserError(
                f"profile.observation_filter={self.profile.observation_filter}: {self.runs[0].env.id} shows frames, "
                "which networks scale themselves; use profile.observation_filter=none, or profile=atari_paper"
            )
        self.distribution_class = distribution_class(self.profile.policy, spaces.discrete, self.runs[0].env.id)
        gaussian = self.distribution_class is Gaussian
        shapes = spaces.observation_shape, spaces.action_size
        self.network = Network(*shapes, gaussian, self.profile, precision(self.numerics))
        start = [initialise(self.network, self.profile, generator(run.seed, "weights")) for run in self.runs]
        self.flat = torch.from_numpy(np.stack(start)).to(self.device)
        separate = self.profile.value_fit == "separate"
        self.optimisers = [optimiser(self.flat, self.profile) for _ in range(2 if separate else 1)]  # the second: of V
        self.parameters = self.network.views(self.flat)
        self.leaves = {name: view.detach().requires_grad_() for name, view in self.parameters.items()}

        self.filter = ObservationFilter(len(self.runs), spaces.observation_size, self.profile)
        self.reward_scale = RewardScale(len(self.runs), self.profile, self.column("gamma"))
        self.settings = {name: self.column(name) for name, setting in SETTINGS.items() if setting.per_run}
        self.stepsize = self.column("stepsize")
        self.average = self.flat.clone() if self.algo.average_decay is not None else None
        self.policy_columns = torch.from_numpy(self.network.policy_columns())
        self.search: CrossEntropyMethod | None = None
        if self.algo.objective == "cem":
            means = self.flat[:, self.policy_columns].cpu().numpy()
            self.search = CrossEntropyMethod(means, self.algo, [run.seed for run in self.runs])
            for run in range(len(self.runs)):
                self.load_candidate(run)
        self.episode_return = np.zeros((len(self.runs), actors))
        self.episode_length = np.zeros((len(self.runs), actors), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def iteration(self) -> int:
        """How many are complete."""
        return self.rollout // self.profile.rollouts

    @property
    def env_steps(self) -> int:
        """Env steps each member has taken and learnt from."""
        return self.rollout * self.profile.batch

    def env_step_of(self, t: int, actor: int) -> int:
        """A run's env step number, from 1, of an actor's step t of the present rollout; 0 before the first."""
        return max(self.env_steps + t * self.profile.actors + actor + 1, 0)

    def place(self, error: TaskError, t: int) -> None:
        """Let an error say of which run and at which env step."""
        run, actor = divmod(error.row, self.profile.actors)
        seed, objective = self.runs[run].seed, self.runs[run].algo.objective
        beside = f" (of {len(self)} that train together)" if len(self) > 1 else ""
        error.place = f" at env step {self.env_step_of(t, actor)} of the run {objective}, seed {seed}{beside}"

    @property
    def observations(self) -> np.ndarray:
        """What each run's actors see now, raw: (R, N, D) float64 or (R, N, C, H, W) uint8."""
        return self.environments.observations.reshape(len(self), self.profile.actors, *self.spaces.observation_shape)

    @property
    def remaining(self) -> float:
        """α: 1 at the start, falling linearly over the budget; taken at the rollout's start (section 6.4)."""
        return 1 - self.rollout / (self.iterations * self.profile.rollouts)

    def start(self) -> None:
        """The first reset of every environment. A resumed pack replays instead."""
        try:
            self.environments.reset()
        except TaskError as error:
            self.place(error, -1)
            raise
        self.filter.see(self.observations)

    def end(self, run: int, quantity: str, env_step: int) -> None:
        """A run's quantity is not finite: it is alive no more. Its first one is remembered."""
        self.alive[run] = False
        found, known = NotFinite(quantity, int(env_step)), self.not_finite[run]
        self.not_finite[run] = min(found, known or found, key=lambda each: (each[1], MUST_BE_FINITE.index(each[0])))

    def column(self, name: str) -> np.ndarray:
        """A per-run setting as (R, 1) float64; NaN where a run has none."""
        values = [getattr(run.algo if hasattr(run.algo, name) else run.profile, name) for run in self.runs]
        return np.array([[np.nan if value is None else value] for value in values], dtype=np.float64)

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        dtype = torch.float32 if array.dtype.kind == "f" else None
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, dtype)

    def distribution(self, parameters: Mapping[str, torch.Tensor], policy: torch.Tensor) -> Distribution:
        """policy: (R, B, A), the network's output."""
        if self.distribution_class is Gaussian:
            return Gaussian(policy, parameters["log_std"])
        return Categorical(policy)

    def objective_rows(self) -> list[tuple[Objective, slice]]:
        """Each objective present and its rows."""
        names = [run.algo.objective for run in self.runs]
        first = {name: names.index(name) for name in names}
        return [(OBJECTIVES[name], slice(start, start + names.count(name))) for name, start in first.items()]

    def load_candidate(self, run: int) -> None:
        """The search's next candidate becomes the policy that acts."""
        assert self.search is not None
        self.flat[run, self.policy_columns] = torch.from_numpy(self.search.candidate(run)).to(self.flat)

    def state_dict(self, run: int) -> dict[str, Any]:
        """All that row `run` must remember at an iteration boundary. Randomness needs nothing: its draws have names."""
        return {
            "iteration": self.iteration,
            "alive": bool(self.alive[run]),
            **({} if (ended := self.not_finite[run]) is None else {"not_finite": ended._asdict()}),
            "parameters": self.flat[run].cpu().clone(),
            "optimisers": [each.state_dict(run) for each in self.optimisers],
            **{name: float(self.settings[name][run, 0]) for name in ADAPTED},
            "stepsize": float(self.stepsize[run, 0]),
            **({} if self.average is None else {"average": self.average[run].cpu().clone()}),
            **({} if self.search is None else {"search": self.search.state_dict(run)}),
            "filter": self.filter.state_dict(run),
            "reward_scale": self.reward_scale.state_dict(run),
            "environments": [self.environments.state_dict(row) for row in self.rows_of(run)],
            "episode_return": self.episode_return[run].copy(),
            "episode_length": self.episode_length[run].copy(),
        }

    def load_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None:
        """One state per member, in the order of `runs`, all at the same iteration."""
        (iteration,) = {state["iteration"] for state in states}
        self.rollout = iteration * self.profile.rollouts
        for run, state in enumerate(states):
            self.alive[run] = state["alive"]
            self.not_finite[run] = NotFinite(**state["not_finite"]) if "not_finite" in state else None
            self.flat[run] = torch.as_tensor(state["parameters"], device=self.device)
            for each, remembered in zip(self.optimisers, state["optimisers"], strict=True):
                each.load_state_dict(run, remembered)
            for name in ADAPTED:
                self.settings[name][run] = state[name]
            self.stepsize[run] = state["stepsize"]
            if self.average is not None:
                self.average[run] = torch.as_tensor(state["average"], device=self.device)
            if self.search is not None:
                self.search.load_state_dict(run, state["search"])
            self.filter.load_state_dict(run, state["filter"])
            self.reward_scale.load_state_dict(run, state["reward_scale"])
            self.episode_return[run] = state["episode_return"]
            self.episode_length[run] = state["episode_length"]
        self.environments.load_state_dicts([each for state in states for each in state["environments"]])

    def rows_of(self, run: int) -> range:
        """The environments of a run."""
        return range(run * self.profile.actors, (run + 1) * self.profile.actors)
