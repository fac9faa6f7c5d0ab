"""Which runs train together: what can share a pack, cut to size, longest first; and what a pack will cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import gcd, lcm
from time import perf_counter
from typing import Any

import torch

from experiments.manifest import Entry
from ppo.config import RunConfig, pack_key
from ppo.pack import Pack
from ppo.train import train

CALIBRATED_SIZES = (1, 8)  # runs
CALIBRATED_STEPS = 256  # env steps, in whole minibatches
CALIBRATED_ITERATIONS = 3  # the first warms up and does not count
FIXED_SECONDS = 8.0  # imports and the first reset


@dataclass(frozen=True)
class PlannedPack:
    """Runs of one pack and the seconds one core will need for them."""

    entries: tuple[Entry, ...]
    seconds: float


Rate = Callable[[RunConfig, int], float]
"""Seconds per env step of each run, from a config and the size of its pack."""


def plan(entries: Sequence[Entry], runs_per_pack: int, workers: int, rate: Rate) -> list[PlannedPack]:
    """Packs, longest first. The longest are halved while workers would stand idle."""
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(pack_key(entry.run.config), []).append(entry)

    def planned(members: Sequence[Entry]) -> PlannedPack:
        config = members[0].run.config
        steps = config.iterations * config.profile.steps
        return PlannedPack(tuple(members), FIXED_SECONDS + steps * len(members) * rate(config, len(members)))

    packs = [planned(piece) for group in groups.values() for piece in even(group, -(-len(group) // runs_per_pack))]
    while len(packs) < workers:
        longest = max(packs, key=lambda pack: pack.seconds, default=None)
        if longest is None or len(longest.entries) < 2:
            break
        packs.remove(longest)
        packs += [planned(piece) for piece in even(longest.entries, 2)]
    return sorted(packs, key=lambda pack: -pack.seconds)


def even(entries: Sequence[Entry], pieces: int) -> list[Sequence[Entry]]:
    """Cut into pieces whose sizes differ by one at most; neighbours in the grid stay together."""
    cuts = [len(entries) * i // pieces for i in range(pieces + 1)]
    return [entries[a:b] for a, b in pairwise(cuts)]


class Calibration:
    """Seconds per env step, measured here by short rollouts and updates: a + b·size for a pack, one pair per task.
    Convolutions outweigh all that packing saves and all that games differ in: for frames, b of the first game.

    Always on this machine's CPU and eager: other numerics and devices are faster or slower than this says.
    """

    def __init__(self) -> None:
        self.measured: dict[Any, tuple[float, float]] = {}

    def __call__(self, config: RunConfig, size: int) -> float:
        """Seconds per env step of each run in a pack of that size."""
        frames = config.profile.convolutions != "none"
        key = ("frames" if frames else config.env, config.backend, config.profile, config.algo.learns)
        if key not in self.measured and frames:
            self.measured[key] = 0.0, seconds_per_step(config, 1)
        elif key not in self.measured:
            small, large = (seconds_per_step(config, count) for count in CALIBRATED_SIZES)
            per_run = max((large - small) / (CALIBRATED_SIZES[1] - CALIBRATED_SIZES[0]), small / 100)
            self.measured[key] = (max(small - per_run, 0.0), per_run)
        fixed, per_run = self.measured[key]
        return fixed / size + per_run


def seconds_per_step(config: RunConfig, size: int) -> float:
    """Wall seconds in which a pack of `size` takes one env step in each of its runs, updates included."""
    torch.set_num_threads(1)
    profile, actors = config.profile, config.profile.actors
    if profile.batch < CALIBRATED_STEPS:
        profile = replace(profile, rollouts=-(-CALIBRATED_STEPS // profile.batch))
    else:
        unit = lcm(profile.minibatch_size // gcd(profile.minibatch_size, actors), profile.segment or 1)
        profile = replace(profile, horizon=unit * -(-CALIBRATED_STEPS // (unit * actors)), rollouts=1)
    small = replace(
        config,
        profile=profile,
        env_steps=profile.steps * CALIBRATED_ITERATIONS,
        numerics="exact",
        device="cpu",
    )
    iterations = train(Pack([replace(small, seed=seed) for seed in range(size)]))
    next(iterations)
    began = perf_counter()
    steps = sum(small.profile.steps for _ in iterations)
    return (perf_counter() - began) / steps
