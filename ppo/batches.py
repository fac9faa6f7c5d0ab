"""From a rollout to what a loss reads: inputs, advantages and targets as one batch, and its minibatches."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ppo.losses import Batch
from ppo.normalisation import ObservationFilter
from ppo.randomness import generator

if TYPE_CHECKING:
    from ppo.config import Profile
    from ppo.rollout import Rollout


def merged(array: np.ndarray) -> np.ndarray:
    """(R, N, T, …) → (R, N·T, …): all that a run has seen, one actor after another."""
    return array.reshape(len(array), -1, *array.shape[3:])


def inputs_of(rollout: "Rollout", observation_filter: ObservationFilter) -> np.ndarray:
    """The rollout's inputs, (R, N·T, …), after the filter has seen it.

    ppo1 recomputes the old policy and value under the new statistics, so the first ratio is exactly 1.
    """
    observations = merged(rollout.observations)
    observation_filter.see_rollout(observations)
    return observation_filter.normalise(observations) if observation_filter.when == "per_rollout" else merged(rollout.x)


def standardised(advantage: np.ndarray, epsilon: float) -> np.ndarray:
    """Mean 0 and standard deviation 1 over the last axis."""
    mean, std = advantage.mean(axis=-1, keepdims=True), advantage.std(axis=-1, keepdims=True)
    return (advantage - mean) / (std + epsilon)


def trajectories(ended: np.ndarray, segment: int) -> np.ndarray:
    """The number of each step's trajectory in its run, (R, N·T) from (R, N, T): episodes and segments end it."""
    last = ended.copy()
    last[..., segment - 1 :: segment] = True
    last = merged(last)
    return np.cumsum(last, axis=-1) - last


def minibatches(whole: Batch, profile: "Profile", seeds: Sequence[int], number: int) -> Iterator[Batch]:
    """K epochs of N·T/M minibatches of a rollout, (R, N·T); gathered once per epoch.

    Every run shuffles its steps (or segments) by its own draw, named by its seed and the rollout's number.
    """
    runs, size, count = len(seeds), profile.minibatch_size, profile.batch // profile.minibatch_size
    for epoch in torch.from_numpy(orders(profile, seeds, number)).to(whole.x.device):
        index = epoch.flatten()

        def gather(values: Tensor, index: Tensor = index) -> Tensor:
            return values.flatten(0, 1).index_select(0, index).unflatten(0, (count, runs, size))

        shuffled = whole.map(gather)
        if profile.standardise == "minibatch":
            centred = shuffled.advantage - shuffled.advantage.mean(-1, keepdim=True)
            std = shuffled.advantage.std(-1, correction=0, keepdim=True)
            shuffled.advantage = centred / (std + profile.standardise_epsilon)
        for m in range(count):

            def minibatch(values: Tensor, m: int = m) -> Tensor:
                return values[m]

            yield shuffled.map(minibatch)


def orders(profile: "Profile", seeds: Sequence[int], number: int) -> np.ndarray:
    """Which steps each minibatch takes, (K, N·T/M, R, M), as rows of the flattened (R·N·T)."""
    unit, count = profile.segment or 1, profile.batch // profile.minibatch_size
    units = np.tile(np.arange(profile.batch // unit), (profile.epochs, 1))
    permuted = [generator(seed, "minibatch", number).permuted(units, axis=1) for seed in seeds]
    steps = np.stack(permuted, axis=1)[..., None] * unit + np.arange(unit)
    rows = steps.reshape(profile.epochs, len(seeds), count, profile.minibatch_size).swapaxes(1, 2)
    return rows + profile.batch * np.arange(len(seeds))[:, None]
