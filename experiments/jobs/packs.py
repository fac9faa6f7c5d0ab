"""Which runs train together: what can share a pack, cut to size, longest first; and what a pack will cost."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from math import gcd, lcm
from time import perf_counter
from types import FrameType
from typing import Any

import numpy as np
import torch

from experiments.compose import one_line
from experiments.identity import slug
from experiments.manifest import Entry
from ppo.config import RunConfig, pack_key
from ppo.environments import TaskError
from ppo.pack import Pack
from ppo.refusals import UserError
from ppo.train import train

CALIBRATED_SIZES = (1, 8)  # runs
CALIBRATED_STEPS = 256  # env steps, in whole minibatches
CALIBRATED_ITERATIONS = 3  # the first warms up and does not count
CALIBRATION_SECONDS = 120.0  # at most, per measurement
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

    Always on this machine's CPU and eager: other numerics and devices are faster or slower than this says. What raises
    or hangs here is for its own task to report: it must not stop the other runs of its study, so it is only said.
    """

    def __init__(self, say: Callable[[str], None] = lambda line: None) -> None:
        self.say = say
        self.measured: dict[Any, tuple[float, float]] = {}

    def __call__(self, config: RunConfig, size: int) -> float:
        """Seconds per env step of each run in a pack of that size."""
        frames = config.profile.convolutions != "none"
        key = ("frames" if frames else config.env, config.backend, config.profile, config.algo.learner.learns)
        if key not in self.measured:
            self.measured[key] = self.measure(config, (1,) if frames else CALIBRATED_SIZES)
        fixed, per_run = self.measured[key]
        return fixed / size + per_run

    def measure(self, config: RunConfig, sizes: Sequence[int]) -> tuple[float, float]:
        """Seconds per env step: of a pack, and of each run in it. What is not known is 0."""
        seconds: list[float] = []
        try:
            for size in sizes:
                with time_limit(CALIBRATION_SECONDS), np.errstate(all="ignore"):  # a run may diverge
                    seconds.append(seconds_per_step(config, size))
        except (Exception, SystemExit, Overtime) as error:
            if isinstance(error, UserError) and not isinstance(error, TaskError):
                raise
            cause = one_line(error)
            self.say(f"{slug(config)}: how long it takes could not be measured ({cause}); the times here leave it out")
        if len(seconds) < 2:
            return 0.0, sum(seconds)
        small, large = seconds
        per_run = max((large - small) / (sizes[1] - sizes[0]), small / 100)
        return max(small - per_run, 0.0), per_run


class Overtime(BaseException):
    """A measurement took too long. Not an Exception, so that no environment swallows it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise Overtime inside after so many seconds, unless a library does not come back to Python."""

    def ring(_signum: int, _frame: FrameType | None) -> None:
        raise Overtime(f"not done after {seconds:g} seconds")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def seconds_per_step(config: RunConfig, size: int) -> float:
    """Wall seconds in which a pack of `size` takes one env step in each of its runs, updates included.

    The first iteration warms up and does not count, unless every run diverges in it and there is no other.
    """
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
    times = [perf_counter()]
    times += [perf_counter() for _ in iterations]
    counted = times[1:] if len(times) > 2 else times
    return (counted[-1] - counted[0]) / (profile.steps * (len(counted) - 1))
