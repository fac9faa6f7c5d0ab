"""Is an idea better than what there was? One variant against another, with a verdict.

    python -m analysis.verdict MYSTUDY --candidate clip_higher_0.28 --reference clip_0.2
    python -m analysis.verdict MYSTUDY --candidate clip_0.2 --reference clip_0.2 --against analysis/baselines/table1

Sources are those of `analysis.collect`: a study, a folder of records, a dataset, another library's logs. Scores become
shares of the way from the random policy to the reference's mean, task by task; tasks weigh the same.

BETTER or WORSE: the interval of the difference leaves out 0. SAME: it holds 0, and lies within the margin.
INCONCLUSIVE: more seeds decide. Exit codes: 0 BETTER or SAME, 1 WORSE, 4 INCONCLUSIVE, 2 a mistake in what was asked.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import gates, scores
from analysis.baseline import FOLDER, flat, refuse_faulty
from analysis.curves import Curves, areas, learning_curves
from analysis.dataset import Dataset, is_dataset, load
from analysis.figures import style
from analysis.figures.curves import overlaid
from analysis.folders import building
from analysis.records import RecordError
from analysis.report import dataset_of, title_of
from analysis.statistics import Array, difference_interval, probability_of_improvement, welch_test
from analysis.tables import number, span
from experiments.commands import command, typed

EXIT = {"BETTER": 0, "SAME": 0, "WORSE": 1, "INCONCLUSIVE": 4}
MARGIN = 0.10  # share of the reference's span: a smaller difference matters to nobody who uses the default
ERROR = 0.05  # how often a verdict is wrong where nothing differs, over all looks
FIRST_LOOK = 10  # seeds; each doubling is one look more
FEWEST = 3  # seeds of a task and side
SHOWN = 8


@dataclass(frozen=True)
class Side:
    """One of the two that are compared."""

    source: str
    variant: str
    dataset: Dataset
    runs: pd.DataFrame  # of the variant, on the tasks of both
    scores: dict[str, Array]  # by task, (runs,) each; a run that diverged has its task's worst score of both sides

    @property
    def name(self) -> str:
        return f"{self.variant} of {title_of(self.source)}"


class Difference(NamedTuple):
    """candidate − reference as shares of the reference's span, and the ends of its interval."""

    difference: float
    low: float
    high: float
    above: float  # P(a run of the candidate scores higher), mean over tasks

    def verdict(self, margin: float) -> str:
        if self.low > 0:
            return "BETTER"
        if self.high < 0:
            return "WORSE"
        return "SAME" if -margin < self.low and self.high < margin else "INCONCLUSIVE"


def of_source(source: str, variant: str, records: Path) -> tuple[Dataset, pd.DataFrame]:
    """The source's dataset and its runs of the variant; RecordError names the variants that there are."""
    dataset = dataset_of(source, records, mark=False)
    runs = dataset.runs[dataset.runs["variant"] == variant]
    if runs.empty:
        there = ", ".join(sorted(set(dataset.runs["variant"])))
        raise RecordError(f"{source} has no runs of {variant}; it has {there}")
    refuse_faulty(runs)
    return dataset, runs


def sides(found: Sequence[tuple[str, str, Dataset, pd.DataFrame]]) -> tuple[Side, Side]:
    """Candidate and reference on the tasks that both have; RecordError where they cannot be compared."""
    tasks = set.intersection(*(set(runs["env"]) for *_, runs in found))
    if not tasks:
        each = "; ".join(f"{source}: {', '.join(sorted(set(runs['env'])))}" for source, _, _, runs in found)
        raise RecordError(f"they have no task in common ({each}); a task's version is part of its name")
    kept = [(*side, runs[runs["env"].isin(tasks)]) for *side, runs in found]
    for column, remedy in (("budget", "train both as long"), ("measure", "a score must mean the same on both sides")):
        one, other = (runs.groupby("env")[column].unique() for *_, runs in kept)
        for task in sorted(tasks):
            if {*one[task]} != {*other[task]} or len(one[task]) > 1:
                a, b = (", ".join(map(str, sorted(values[task]))) for values in (one, other))
                raise RecordError(f"{task}: {column} {a} against {b}; {remedy}")
    both = pd.concat([runs.assign(variant=str(place)) for place, (*_, runs) in enumerate(kept)])
    raw = scores.raw_scores(both)
    few = [
        f"{source}: {variant} on {task}"
        for place, (source, variant, _, _) in enumerate(kept)
        for task in sorted(tasks)
        if raw.get(str(place), {}).get(task, np.empty(0)).size < FEWEST
    ]
    if few:
        raise RecordError(f"fewer than {FEWEST} seeds with a score, too few for a verdict: {', '.join(few)}")
    made = [
        Side(*side, runs, {task: raw[str(place)][task] for task in sorted(tasks)})
        for place, (*side, runs) in enumerate(kept)
    ]
    return made[0], made[1]


def zeros(one: Side, other: Side) -> tuple[dict[str, float], str]:
    """The random policy's mean score by task, and whose runs those are."""
    wanted = set(other.scores)
    places = [(side.source, side.dataset) for side in (other, one)]
    places += [(str(folder), load(folder)) for folder in sorted(FOLDER.iterdir()) if is_dataset(folder)]
    for source, dataset in places:
        found = scores.raw_scores(dataset.runs[dataset.runs["variant"] == "random"]).get("random", {})
        if wanted <= found.keys():
            return {task: float(found[task].mean()) for task in wanted}, source
    raise RecordError(
        f"no source has runs of the random policy on {', '.join(sorted(wanted))}, and they give the scale; add the "
        "variant random: [algo=random] to a study"
    )


def level_of(seeds: int) -> float:
    """Of the interval: looks after 10, 20, 40, … seeds spend a half, a quarter, … of the error."""
    look = 1 + int(math.log2(max(seeds, FIRST_LOOK) / FIRST_LOOK))
    return 1 - ERROR / 2**look


def difference(x: Mapping[str, Array], y: Mapping[str, Array], zero: Mapping[str, float], level: float) -> Difference:
    """Of x from y, by task (runs,) each, of what is finite. Welch's interval, tasks as strata of equal weight."""
    clean = [{task: runs[np.isfinite(runs)] for task, runs in side.items()} for side in (x, y)]
    spans = {task: float(y[task].mean() - zero[task]) for task in y}
    if under := [task for task, of_task in spans.items() if not of_task > 0]:
        raise RecordError(f"the reference is no better than the random policy on {', '.join(under)}: there is no scale")
    shares = [[(side[task] - zero[task]) / spans[task] for task in y] for side in clean]
    seen = welch_test(*shares)
    low, high = difference_interval(seen, level)
    return Difference(float(seen.difference), low, high, float(probability_of_improvement(*shares)))


def settings_that_differ(one: Side, other: Side) -> list[str]:
    """'algo.epsilon_high 0.28, reference null', of the settings that are not the same on both sides."""
    read = [
        {name: values for runs in [side.runs] for name, values in said(runs).items()} for side in (one, other)
    ]
    ours, theirs = read
    names = sorted(ours.keys() | theirs.keys())
    return [
        f"{name} {' or '.join(sorted(ours.get(name, {'null'})))}, reference {' or '.join(sorted(theirs.get(name, {'null'})))}"
        for name in names
        if ours.get(name, {"null"}) != theirs.get(name, {"null"})
    ]


def said(runs: pd.DataFrame) -> dict[str, set[str]]:
    """Every setting but the seed, with the values that the runs have."""
    found: dict[str, set[str]] = {}
    for text in runs["config"].unique():
        for name, value in flat(json.loads(text or "{}")):
            if name != "seed":
                found.setdefault(name, set()).add(value)
    return found
