"""Is a run the same run whoever trains beside it? The part of the exact trace that only packs can show.

Every traced run is trained again behind a run of another seed, so at an odd place of a larger pack, and one of each
pack alone. Bytes that differ are a leak: something of another run has reached it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from experiments.trace_sides import Lines, compare, packs_of
from ppo.config import RunConfig

Collect = Callable[[Mapping[str, RunConfig]], Lines]
"""Trains runs, by name, in as few packs as possible."""


def mixed(runs: Mapping[str, RunConfig]) -> dict[str, RunConfig]:
    """Each run behind one of the next seed."""
    found: dict[str, RunConfig] = {}
    for name, run in runs.items():
        found |= {f"{name}, with seed {run.seed + 1}": replace(run, seed=run.seed + 1), name: run}
    return found


def leaks(runs: Mapping[str, RunConfig], lines: Lines, collect: Collect) -> list[str]:
    """What reaches a run from its mates, in sentences; none if every run stays itself. `lines`: what `collect` gave for
    `runs`."""
    found = []
    for pack in packs_of(runs):
        first = next(iter(pack))
        trained = [(collect(mixed(pack)), "beside other seeds")]
        if len(pack) > 1:
            trained.append((collect({first: pack[first]}), "alone"))
        for found_here, how in trained:
            there, here = common(lines, found_here)
            if differing := compare(there, here, ("its pack of one seed", how)):
                found.append(f"{how}, a run is another: {differing[0]}{culprit(pack, there, here, collect)}")
                break
    return found


def common(one: Lines, other: Lines) -> tuple[Lines, Lines]:
    """Both, of the runs that both have and as far as both go: a pack ends when all in it have diverged."""
    keys = one.keys() & other.keys()
    return {key: one[key] for key in keys}, {key: other[key] for key in keys}


def culprit(pack: Mapping[str, RunConfig], there: Lines, here: Lines, collect: Collect) -> str:
    """Who disturbs whom: the first pair that is not what both are alone, if two are enough."""
    disturbed = min(name for name, number in there if there[name, number] != here[name, number])
    alone = collect({disturbed: pack[disturbed]})
    for name, run in mixed(pack).items():
        if name != disturbed:
            here_too, there_too = common(alone, collect({name: run, disturbed: pack[disturbed]}))
            if here_too != there_too:
                return f"; {name} disturbs {disturbed}"
    return ""
