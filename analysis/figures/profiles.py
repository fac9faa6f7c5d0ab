"""Which conclusions about objectives survive another implementation: the figure over profiles, and its words."""

import itertools
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from analysis import statistics
from analysis.curves import Band
from analysis.figures import style
from analysis.figures.curves import averageable, grid, say_groups, say_leaving
from analysis.figures.style import Shown, limits
from analysis.results import Results
from analysis.statistics import LEVEL, Array

AVERAGE = "normalised average"
APART = 0.14  # of the room between profiles, from one objective to the next

Table = dict[str, dict[str, str]]  # variant by objective and profile


def by_objective(results: Results) -> Table:
    """The variant that is an objective under a profile. Empty if no objective has several profiles, or a pair of them
    several variants, for then more than the profile differs."""
    found: Table = {}
    profile_of = dict(zip(results.runs["variant"], results.runs["profile"], strict=True))
    for variant in results.trained:
        under = found.setdefault(results.objective(variant), {})
        if profile_of[variant] in under:
            return {}
        under[profile_of[variant]] = variant
    return found if any(len(under) > 1 for under in found.values()) else {}


def multiverse(results: Results) -> Figure:
    """A panel per task and, of normalised scores, one of their average: each objective's mean and its interval under
    each profile. Lines join what belongs to one objective; many objectives have panels by group."""
    table = by_objective(results)
    profiles = list(dict.fromkeys(profile for under in table.values() for profile in under))
    groups, looks = style.groups(list(table)), style.looks(list(table))
    subjects = [*results.environments, *[AVERAGE] * averageable(results)]
    figure, axes = grid(groups, subjects, "", "score")
    places = np.arange(len(profiles))
    for subject in subjects:
        ends = {name: points(results, [under.get(p, "") for p in profiles], subject) for name, under in table.items()}
        spans = [Shown(e.centre[[at]], np.array([e.low[at], e.high[at]])) for e in ends.values() for at in places]
        low, high = limits(spans)
        for place, group in enumerate(groups):
            axis = axes[place, subject]
            for number, name in enumerate(group.variants):
                x, colour = places + (number - (len(group.variants) - 1) / 2) * APART, looks[name].colour
                axis.plot(x, ends[name].centre, color=colour, ls=looks[name].dashes, lw=0.8, marker="o", ms=3)
                axis.vlines(x, ends[name].low, ends[name].high, color=colour, lw=1)
            say_leaving(axis, {name: ends[name].centre for name in group.variants}, low)
            axis.set(ylim=(low, high), xlim=(-0.5, len(places) - 0.5))
            axis.set_xticks(places, profiles, rotation=35, ha="right", rotation_mode="anchor")
    say_groups(figure, groups, axes, looks)
    return figure


def points(results: Results, variants: list[str], panel: str) -> Band:
    """Mean and interval of each variant in one panel; NaN where there is none."""
    ends = np.full((3, len(variants)), np.nan)
    for place, variant in enumerate(variants):
        cells = cells_of(results, variant, panel)
        if cells:
            ends[0, place] = statistics.mean(cells)
        if cells and statistics.fewest(cells) > 1:
            ends[1:, place] = statistics.interval(cells, results.rng())[:2]
    return Band(*ends)


def cells_of(results: Results, variant: str, panel: str) -> list[Array]:
    """The variant's runs: raw scores of a task, or normalised ones of all."""
    if panel == AVERAGE:
        return results.cells(variant) if variant in results.complete else []
    runs = results.raw.get(variant, {}).get(panel)
    return [] if runs is None else [runs]


def conclusions(results: Results) -> str:
    """In how many pairs of profile and task the objective that wins most often beats each of the others."""
    table = by_objective(results)
    duels = {pair: differences(results, *(table[name] for name in pair)) for pair in itertools.permutations(table, 2)}
    wins = {name: sum((found[:, 0] > 0).sum() for pair, found in duels.items() if pair[0] == name) for name in table}
    first = max(wins, key=lambda name: wins[name])
    said = []
    for second in (name for name in table if name != first and len(duels[first, name])):
        ahead, p = duels[first, second].T
        clear = ahead[p < 1 - LEVEL] > 0
        said.append(
            f"{first} has a higher mean than {second} in {(ahead > 0).sum()} of {ahead.size} pairs of profile and "
            f"task; {clear.size} differences are clear, each by itself (Welch, p < {1 - LEVEL:.2f}), {clear.sum()} of "
            f"them in favour of {first}."
        )
    return " ".join(said)


def differences(results: Results, first: Mapping[str, str], second: Mapping[str, str]) -> Array:
    """Differences of means and their p (NaN if a mean is of one run), a row per task under each profile that both
    objectives have."""
    rows = []
    for profile, task in itertools.product([profile for profile in first if profile in second], results.environments):
        x, y = cells_of(results, first[profile], task), cells_of(results, second[profile], task)
        if x and y:
            p = statistics.welch_test(x, y).p if statistics.fewest([*x, *y]) > 1 else np.nan
            rows.append((statistics.mean(x) - statistics.mean(y), p))
    return np.array(rows, dtype=np.float64).reshape(-1, 2)
