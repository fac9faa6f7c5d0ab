"""Collection: run π_θold in every environment for T env steps (Algorithm 1)."""

from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

import numpy as np

from ppo.actor_critic import Actor, outgoing
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
    over: np.ndarray  # (R, N, T) bool: the environment ended the episode; not by a lost life
    episodes: list[list[Episode]] = field(default_factory=list)  # finished ones, per run
    seconds: dict[str, float] = field(default_factory=dict)  # environment, inference

    @property
    def ended(self) -> np.ndarray:
        return self.terminated | self.truncated


def named_draws(pack: Pack, actor: Actor) -> np.ndarray:
    """What the actors need of chance for this rollout, by its named draws: (R, N, T, …)."""
    profile = pack.profile
    draws = [actor.draws(generator(run.seed, "action", pack.rollout), profile.batch) for run in pack.runs]
    return np.stack([each.reshape(profile.actors, profile.horizon, *each.shape[1:]) for each in draws])


def empty_rollout(pack: Pack) -> Rollout:
    """Room for T transitions of every actor."""
    spaces, profile = pack.spaces, pack.profile
    shape = (len(pack), profile.actors, profile.horizon)
    observations = np.empty((*shape, *spaces.observation_shape), dtype=spaces.dtype)
    of_networks = np.uint8 if spaces.frames else np.float32
    return Rollout(
        observations=observations,
        x=observations if spaces.frames else np.empty(observations.shape, dtype=of_networks),
        next_x=np.empty(observations.shape, dtype=of_networks),
        actions=np.empty(shape if spaces.discrete else (*shape, spaces.action_size),
                         dtype=np.int64 if spaces.discrete else np.float32),
        rewards=np.empty(shape),
        terminated=np.empty(shape, dtype=bool),
        truncated=np.empty(shape, dtype=bool),
        over=np.empty(shape, dtype=bool),
        episodes=[[] for _ in pack.runs],
        seconds={"environment": 0.0},
    )  # fmt: skip


def collect(pack: Pack) -> Rollout:
    """One rollout; also ends members whose actions, rewards or observations are no longer finite. What these play on
    with is no policy's doing: their episodes end unrecorded."""
    began = perf_counter()
    actor = pack.learner.acting()
    draws = named_draws(pack, actor)
    rollout = empty_rollout(pack)
    x = pack.filter.normalise(pack.observations)
    for t in range(pack.profile.horizon):
        rollout.observations[:, :, t] = pack.observations
        rollout.x[:, :, t] = x
        actions = actor.act(x, draws[:, :, t])
        rollout.actions[:, :, t] = actions
        step(pack, rollout, t, finite_actions(pack, actions, t))
        if rollout.over[..., t].any() and end_episodes(pack, rollout, t):
            actor = pack.learner.acting()
        pack.filter.see(pack.observations)
        x = pack.filter.normalise(pack.observations)
    fill_next_inputs(rollout, x)
    pack.environments.forget()
    end_not_finite(pack, rollout)
    rollout.seconds["inference"] = perf_counter() - began - rollout.seconds["environment"]
    return rollout


def finite_actions(pack: Pack, actions: np.ndarray, t: int) -> np.ndarray:
    """The actions of step t, (R, N, …), with 0 for members that are not alive; ends those whose actions are not
    finite."""
    if pack.spaces.discrete or (finite := np.isfinite(actions)).all():
        return actions
    for run, actor in np.argwhere(~finite.all(axis=2)):
        pack.end(run, "actions", pack.env_step_of(t, actor))
    return np.where(pack.alive[:, None, None], actions, np.float32(0))


def step(pack: Pack, rollout: Rollout, t: int, actions: np.ndarray) -> None:
    """Every environment takes its action of step t; what it hands out goes into the rollout."""
    runs, actors = actions.shape[:2]
    taken = outgoing(actions, pack.spaces, pack.profile.clip_actions)
    before = perf_counter()
    try:
        handed_out = pack.environments.step(taken.reshape(runs * actors, *taken.shape[2:]))
    except TaskError as error:
        pack.place(error, t)
        raise
    rollout.seconds["environment"] += perf_counter() - before
    rewards, terminated, truncated = (values.reshape(runs, actors) for values in handed_out)
    rollout.rewards[..., t], rollout.terminated[..., t], rollout.truncated[..., t] = rewards, terminated, truncated
    rollout.over[..., t] = terminated | truncated
    if pack.profile.lost_life == "terminal":
        rollout.terminated[..., t] |= pack.environments.lost.reshape(runs, actors)
    pack.episode_return += rewards
    pack.episode_length += 1


def end_episodes(pack: Pack, rollout: Rollout, t: int) -> bool:
    """Keep what ended at step t and reset its environments. True if a learner must act by other parameters now."""
    ended, changed = rollout.over[..., t], False
    for run, actor in np.argwhere(ended & not_finite(pack.observations)):
        pack.end(run, "observations", pack.env_step_of(t, actor))
    rollout.next_x[ended, t] = pack.filter.normalise(pack.observations)[ended]
    for run, actor in np.argwhere(ended & pack.alive[:, None]):
        total, length = float(pack.episode_return[run, actor]), int(pack.episode_length[run, actor])
        rollout.episodes[run].append(Episode(pack.env_step_of(t, int(actor)), total, length))
        changed |= pack.learner.see_return(int(run), total)
    pack.episode_return[ended], pack.episode_length[ended] = 0.0, 0
    before = perf_counter()
    try:
        pack.environments.reset(np.flatnonzero(ended))
    except TaskError as error:
        pack.place(error, t)
        raise
    rollout.seconds["environment"] += perf_counter() - before
    return changed


def fill_next_inputs(rollout: Rollout, x: np.ndarray) -> None:
    """What followed every step that ended no episode: the next step's input; `x` after the last one."""
    followed = ~rollout.over.reshape(*rollout.over.shape, *[1] * (rollout.x.ndim - 3))
    np.copyto(rollout.next_x[:, :, :-1], rollout.x[:, :, 1:], where=followed[:, :, :-1])
    np.copyto(rollout.next_x[:, :, -1], x, where=followed[:, :, -1])


def end_not_finite(pack: Pack, rollout: Rollout) -> None:
    """End members that met a reward or an observation that is not finite; drop the later episodes of faulty ones."""
    for run, actor, t in np.argwhere(~np.isfinite(rollout.rewards)):
        pack.end(run, "rewards", pack.env_step_of(t, actor))
    for run, actor, t in np.argwhere(not_finite(rollout.observations)):
        pack.end(run, "observations", pack.env_step_of(t - 1, actor))
    for run, actor in np.argwhere(not_finite(pack.observations)):
        pack.end(run, "observations", pack.env_step_of(pack.profile.horizon - 1, actor))
    for run, found in enumerate(pack.not_finite):
        if found is not None and found.status == "faulty":
            rollout.episodes[run] = [each for each in rollout.episodes[run] if each.env_step < found.env_step]


def not_finite(observations: np.ndarray) -> np.ndarray:
    """Which of them, (…, D), hold a number that is not finite: (…) bool; frames (…, C, H, W), uint8, never do."""
    if observations.dtype == np.uint8:
        return np.zeros(observations.shape[:-3], dtype=bool)
    found: np.ndarray = ~np.isfinite(observations).all(axis=-1)
    return found
