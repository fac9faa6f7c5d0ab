"""A pack: runs of one environment that train together, and everything they must remember.

The members differ only in seed and in settings that are numbers (`config.PER_RUN`). Row r of every tensor belongs to
run r and to nobody else; a member that diverges or whose environment is faulty is masked and disturbs no mate.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ppo.config import RunConfig, pack_key
from ppo.environments import Environments, TaskError
from ppo.learners import OBJECTIVES
from ppo.normalisation import ObservationFilter
from ppo.numerics import prepare
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
        prepare(self.runs[0].numerics)
        actors = self.profile.actors
        seeds = [generator(run.seed, "environment").integers(MAX_SEED, size=actors) for run in self.runs]
        self.environments = Environments(self.runs[0].env, self.runs[0].backend, np.concatenate(seeds).tolist())
        self.spaces = spaces = self.environments.spaces
        if spaces.frames and self.profile.observation_filter != "none":
            raise UserError(
                f"profile.observation_filter={self.profile.observation_filter}: {self.runs[0].env.id} shows frames, "
                "which networks scale themselves; use profile.observation_filter=none, or profile=atari_paper"
            )
        self.learner = self.algo.learner(self.runs, spaces)
        self.filter = ObservationFilter(len(self.runs), spaces.observation_size, self.profile)
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

    def state_dict(self, run: int) -> dict[str, Any]:
        """All that row `run` must remember at an iteration boundary. Randomness needs nothing: its draws have names."""
        return {
            "iteration": self.iteration,
            "alive": bool(self.alive[run]),
            **({} if (ended := self.not_finite[run]) is None else {"not_finite": ended._asdict()}),
            **self.learner.state_dict(run),
            "filter": self.filter.state_dict(run),
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
            self.learner.load_state_dict(run, state)
            self.filter.load_state_dict(run, state["filter"])
            self.episode_return[run] = state["episode_return"]
            self.episode_length[run] = state["episode_length"]
        self.environments.load_state_dicts([each for state in states for each in state["environments"]])

    def rows_of(self, run: int) -> range:
        """The environments of a run."""
        return range(run * self.profile.actors, (run + 1) * self.profile.actors)
