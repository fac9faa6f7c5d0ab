"""Collection: run π_θold in every environment for T env steps (Algorithm 1)."""

from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

import numpy as np

from ppo.pack import Pack
from ppo.randomness import generator


class Episode(NamedTuple):
    env_step: int  # of its run, at the episode's end
    episode_return: float  # raw reward, undiscounted
    length: int  # env steps


@dataclass
class Rollout:
    """T transitions of R runs. `x` are observations as the networks saw them, `next_x[t]` what followed x[t]: the final
    observation where an episode ended, never the next one's first."""

    observations: np.ndarray  # (R, T, D) float64, raw
    x: np.ndarray  # (R, T, D) float32
    next_x: np.ndarray  # (R, T, D) float32
    actions: np.ndarray  # (R, T, A) float32 or (R, T) int64, as sampled: clipping happens on the way to the environment
    rewards: np.ndarray  # (R, T) float64, raw
    terminated: np.ndarray  # (R, T) bool
    truncated: np.ndarray  # (R, T) bool
    episodes: list[list[Episode]] = field(default_factory=list)  # finished ones, per run
    seconds: dict[str, float] = field(default_factory=dict)  # environment, inference

    @property
    def ended(self) -> np.ndarray:
        return self.terminated | self.truncated


def action_draws(pack: Pack) -> np.ndarray:
    """This iteration's named draws: noise for the policy (R, T, A), or for `random` the actions themselves."""
    horizon, spaces = pack.profile.horizon, pack.spaces
    draws = []
    for run in pack.runs:
        rng = generator(run.seed, "action", pack.iteration)
        if run.algo.objective != "random":
            draws.append(pack.distribution_class.noise(rng, horizon, spaces.action_size))
        elif spaces.discrete:
            draws.append(rng.integers(spaces.action_size, size=horizon))
        else:
            draws.append(rng.uniform(spaces.low, spaces.high, (horizon, spaces.action_size)).astype(np.float32))
    return np.stack(draws)


def collect(pack: Pack) -> Rollout:
    """One rollout; also marks members whose actions or rewards are no longer finite as not alive."""
    runs, horizon, spaces, environments = len(pack), pack.profile.horizon, pack.spaces, pack.environments
    uniform = pack.algo.objective == "random"
    clip = pack.profile.clip_actions and not spaces.discrete
    draws = action_draws(pack)
    parameters = {name: values.cpu().numpy() for name, values in pack.parameters.items()}
    perturbation = draws if uniform else pack.distribution_class.perturbation(parameters, draws)

    shape = (runs, horizon, spaces.observation_size)
    rollout = Rollout(
        observations=np.empty(shape),
        x=np.empty(shape, dtype=np.float32),
        next_x=np.empty(shape, dtype=np.float32),
        actions=np.empty((runs, horizon) if spaces.discrete else (runs, horizon, spaces.action_size),
                         dtype=np.int64 if spaces.discrete else np.float32),
        rewards=np.empty((runs, horizon)),
        terminated=np.empty((runs, horizon), dtype=bool),
        truncated=np.empty((runs, horizon), dtype=bool),
        episodes=[[] for _ in range(runs)],
    )  # fmt: skip
    in_environment, began = 0.0, perf_counter()
    x = pack.filter.normalise(environments.observations)
    for t in range(horizon):
        rollout.observations[:, t] = environments.observations
        rollout.x[:, t] = x
        if uniform:
            actions = draws[:, t]
        else:
            policy = pack.network.policy(parameters, x[:, None])[:, 0]
            actions = pack.distribution_class.act(policy, perturbation[:, t])
        rollout.actions[:, t] = actions
        if not spaces.discrete:
            actions = actions.astype(np.float64)
            if not np.isfinite(actions).all():
                pack.alive &= np.isfinite(actions).all(axis=-1)
                actions[~pack.alive] = 0.0
            if clip:
                actions = np.clip(actions, spaces.low, spaces.high)

        before = perf_counter()
        rewards, terminated, truncated = environments.step(actions)
        in_environment += perf_counter() - before
        rollout.rewards[:, t], rollout.terminated[:, t], rollout.truncated[:, t] = rewards, terminated, truncated
        pack.episode_return += rewards
        pack.episode_length += 1
        ended = terminated | truncated
        if ended.any():
            finals = np.flatnonzero(ended)
            rollout.next_x[finals, t] = pack.filter.normalise(environments.observations)[finals]
            for run in finals:
                step = pack.env_steps + t + 1
                episode = Episode(step, float(pack.episode_return[run]), int(pack.episode_length[run]))
                rollout.episodes[run].append(episode)
            pack.episode_return[finals], pack.episode_length[finals] = 0.0, 0
            before = perf_counter()
            environments.reset(finals)
            in_environment += perf_counter() - before
        pack.filter.see(environments.observations)
        x = pack.filter.normalise(environments.observations)
    followed = ~rollout.ended[..., None]
    np.copyto(rollout.next_x[:, :-1], rollout.x[:, 1:], where=followed[:, :-1])
    np.copyto(rollout.next_x[:, -1], x, where=followed[:, -1])
    environments.forget()
    pack.alive &= np.isfinite(rollout.rewards).all(axis=1)
    rollout.seconds = {"environment": in_environment, "inference": perf_counter() - began - in_environment}
    return rollout
