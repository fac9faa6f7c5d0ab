"""Collection: run π_θold in every environment for T env steps (Algorithm 1)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

from ppo.environments import TaskError
from ppo.pack import Pack
from ppo.randomness import generator


class Episode(NamedTuple):
    env_step: int  # of its run, at the episode's end
    episode_return: float  # raw reward, undiscounted
    length: int  # env steps


@dataclass
class Rollout:
    """T transitions of the N actors of R runs. `x` are observations as the networks saw them, `next_x[…, t]` what
    followed x[…, t]: the final observation where an episode ended, never the next one's first. Frames are (R, N, T, C,
    H, W) uint8 in all three."""

    observations: np.ndarray  # (R, N, T, D) float64, raw
    x: np.ndarray  # (R, N, T, D) float32
    next_x: np.ndarray  # (R, N, T, D) float32
    actions: np.ndarray  # (R, N, T, A) float32 or (R, N, T) int64, as sampled: they are clipped on their way out
    rewards: np.ndarray  # (R, N, T) float64, raw
    terminated: np.ndarray  # (R, N, T) bool; also by a lost life, if profile.lost_life says so
    truncated: np.ndarray  # (R, N, T) bool
    episodes: list[list[Episode]] = field(default_factory=list)  # finished ones, per run
    seconds: dict[str, float] = field(default_factory=dict)  # environment, inference

    @property
    def ended(self) -> np.ndarray:
        return self.terminated | self.truncated


def action_draws(pack: Pack) -> np.ndarray:
    """This rollout's named draws: noise for the policy (R, N, T, A), or for `random` the actions themselves."""
    steps, spaces = pack.profile.batch, pack.spaces
    draws: list[np.ndarray] = []
    for run in pack.runs:
        rng = generator(run.seed, "action", pack.rollout)
        if run.algo.objective == "cem":
            draws.append(np.zeros((steps, spaces.action_size), dtype=np.float32))  # its candidates act likeliest
        elif run.algo.objective != "random":
            draws.append(pack.distribution_class.noise(rng, steps, spaces.action_size))
        elif spaces.discrete:
            draws.append(rng.integers(spaces.action_size, size=steps))
        else:
            draws.append(rng.uniform(spaces.low, spaces.high, (steps, spaces.action_size)).astype(np.float32))
    shape = (len(pack), pack.profile.actors, pack.profile.horizon)
    return np.stack([draw.reshape(*shape[1:], *draw.shape[1:]) for draw in draws])


def acting(pack: Pack) -> Mapping[str, Any]:
    """The policies' present parameters, as `policy_of` takes them."""
    if pack.spaces.frames:
        return pack.network.rounded(pack.parameters)
    return {name: values.cpu().numpy() for name, values in pack.parameters.items()}


def policy_of(pack: Pack, parameters: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    """The policies' outputs for one step's inputs: numbers are few, and NumPy beats torch; frames go to the device."""
    if not pack.spaces.frames:
        return pack.network.policy(parameters, x)
    with torch.no_grad():
        return pack.network.policy(parameters, pack.tensor(x)).cpu().numpy()


def not_finite(observations: np.ndarray) -> np.ndarray:
    """Which of them, (…, D), hold a number that is not finite: (…) bool; frames (…, C, H, W), uint8, never do."""
    if observations.dtype == np.uint8:
        return np.zeros(observations.shape[:-3], dtype=bool)
    found: np.ndarray = ~np.isfinite(observations).all(axis=-1)
    return found


def collect(pack: Pack) -> Rollout:
    """One rollout; also ends members whose actions, rewards or observations are no longer finite. What these play on
    with is no policy's doing: their episodes end unrecorded."""
    spaces, environments = pack.spaces, pack.environments
    runs, actors, horizon = len(pack), pack.profile.actors, pack.profile.horizon
    uniform = pack.algo.objective == "random"
    clip = pack.profile.clip_actions and not spaces.discrete
    draws = action_draws(pack)
    parameters = acting(pack)
    perturbation = draws if uniform else pack.distribution_class.perturbation(parameters, draws)

    shape = (runs, actors, horizon)
    observations = np.empty((*shape, *spaces.observation_shape), dtype=spaces.dtype)
    of_networks = np.uint8 if spaces.frames else np.float32
    over = np.empty(shape, dtype=bool)
    rollout = Rollout(
        observations=observations,
        x=observations if spaces.frames else np.empty(observations.shape, dtype=of_networks),
        next_x=np.empty(observations.shape, dtype=of_networks),
        actions=np.empty(shape if spaces.discrete else (*shape, spaces.action_size),
                         dtype=np.int64 if spaces.discrete else np.float32),
        rewards=np.empty(shape),
        terminated=np.empty(shape, dtype=bool),
        truncated=np.empty(shape, dtype=bool),
        episodes=[[] for _ in range(runs)],
    )  # fmt: skip
    in_environment, began = 0.0, perf_counter()
    x = pack.filter.normalise(pack.observations)
    for t in range(horizon):
        rollout.observations[:, :, t] = pack.observations
        rollout.x[:, :, t] = x
        if uniform:
            actions = draws[:, :, t]
        else:
            actions = pack.distribution_class.act(policy_of(pack, parameters, x), perturbation[:, :, t])
        rollout.actions[:, :, t] = actions
        if not spaces.discrete:
            actions = actions.astype(np.float64)
            if not (finite := np.isfinite(actions)).all():
                for run, actor in np.argwhere(~finite.all(axis=2)):
                    pack.end(run, "actions", pack.env_step_of(t, actor))
                actions[~pack.alive] = 0.0
            if clip:
                actions = np.clip(actions, spaces.low, spaces.high)

        before = perf_counter()
        try:
            seen = environments.step(actions.reshape(runs * actors, *actions.shape[2:]))
        except TaskError as error:
            pack.place(error, t)
            raise
        in_environment += perf_counter() - before
        rewards, terminated, truncated = (values.reshape(runs, actors) for values in seen)
        rollout.rewards[..., t], rollout.terminated[..., t], rollout.truncated[..., t] = rewards, terminated, truncated
        if pack.profile.lost_life == "terminal":
            rollout.terminated[..., t] |= environments.lost.reshape(runs, actors)
        pack.episode_return += rewards
        pack.episode_length += 1
        over[..., t] = ended = terminated | truncated
        if ended.any():
            for run, actor in np.argwhere(ended & not_finite(pack.observations)):
                pack.end(run, "observations", pack.env_step_of(t, actor))
            rollout.next_x[ended, t] = pack.filter.normalise(pack.observations)[ended]
            for run, actor in np.argwhere(ended & pack.alive[:, None]):
                step = pack.env_step_of(t, int(actor))
                total, length = pack.episode_return[run, actor], pack.episode_length[run, actor]
                rollout.episodes[run].append(Episode(step, float(total), int(length)))
                if pack.search is not None:
                    pack.search.tell(run, float(total))
                    pack.load_candidate(run)
                    parameters = acting(pack)
            pack.episode_return[ended], pack.episode_length[ended] = 0.0, 0
            before = perf_counter()
            try:
                environments.reset(np.flatnonzero(ended))
            except TaskError as error:
                pack.place(error, t)
                raise
            in_environment += perf_counter() - before
        pack.filter.see(pack.observations)
        x = pack.filter.normalise(pack.observations)
    followed = ~over.reshape(*shape, *[1] * len(spaces.observation_shape))
    np.copyto(rollout.next_x[:, :, :-1], rollout.x[:, :, 1:], where=followed[:, :, :-1])
    np.copyto(rollout.next_x[:, :, -1], x, where=followed[:, :, -1])
    environments.forget()
    for run, actor, t in np.argwhere(~np.isfinite(rollout.rewards)):
        pack.end(run, "rewards", pack.env_step_of(t, actor))
    for run, actor, t in np.argwhere(not_finite(rollout.observations)):
        pack.end(run, "observations", pack.env_step_of(t - 1, actor))
    for run, actor in np.argwhere(not_finite(pack.observations)):
        pack.end(run, "observations", pack.env_step_of(horizon - 1, actor))
    for run, found in enumerate(pack.not_finite):
        if found is not None and found.status == "faulty":
            rollout.episodes[run] = [each for each in rollout.episodes[run] if each.env_step < found.env_step]
    rollout.seconds = {"environment": in_environment, "inference": perf_counter() - began - in_environment}
    return rollout
