"""The training loop: Algorithm 1 of the paper, for a pack of runs."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from ppo.pack import NotFinite, Pack
from ppo.rollout import Episode, collect


@dataclass
class Iteration:
    """What one iteration did, row by row of `pack.runs`."""

    number: int  # from 1
    env_steps: int  # of each run, at the iteration's end
    episodes: list[list[Episode]]  # finished in this iteration, per run, while it was alive
    metrics: dict[str, np.ndarray]  # diagnostics of the updates, (R,) each; empty for a policy that does not learn
    alive: np.ndarray  # (R,) bool: False once one of a run's `pack.MUST_BE_FINITE` is NaN or infinite
    not_finite: list[NotFinite | None]  # which one and when, per run
    seconds: dict[str, float]  # environment, inference, update: of the whole pack


def train(pack: Pack) -> Iterator[Iteration]:
    """Yield after every iteration, at its boundary, until the budget is spent or no member is left.

    for iteration = 1, 2, … do
        run policy π_θold in the environment for T timesteps, in every run of the pack
        compute advantage estimates Â_1, …, Â_T
        optimise the surrogate wrt θ, with K epochs and minibatch size M
        θold ← θ

    An iteration does so `profile.rollouts` times: once in the paper; often in A2C, whose rollouts are short.
    """
    if pack.rollout == 0:
        pack.start()
    while pack.iteration < pack.iterations and pack.alive.any():
        episodes: list[list[Episode]] = [[] for _ in pack.runs]
        seconds: Counter[str] = Counter()
        updates = []
        for _ in range(pack.profile.rollouts):
            rollout = collect(pack)
            began = perf_counter()
            updates.append(pack.learner.update(rollout, pack.filter, pack.rollout))
            pack.rollout += 1
            for run in np.flatnonzero(pack.alive & ~pack.learner.are_finite()):
                pack.end(int(run), "parameters", pack.env_steps)
            seconds.update(rollout.seconds | {"update": perf_counter() - began})
            for known, new in zip(episodes, rollout.episodes, strict=True):
                known += new
        metrics = {name: np.mean([each[name] for each in updates], axis=0) for name in updates[0]}
        ended = pack.alive.copy(), list(pack.not_finite)
        yield Iteration(pack.iteration, pack.env_steps, episodes, metrics, *ended, dict(seconds))
