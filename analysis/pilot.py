"""Which implementation comes nearest to the paper's Table 1? python -m analysis.pilot DATASET

Exploratory: the study `pilot` names its variants IMPLEMENTATION/SETTING. Within an implementation each task is scaled
from random (0) to its best setting (1), as the paper does over its own runs, and averaged over tasks. The distance to
the published scores is the root mean square, over settings, of the difference of asinh(score / 0.2): about linear among
those that learn, logarithmic among those that collapse, so that one exploded run does not decide how far "far" is. It
was fixed before any run of the pilot. Beside it: its range when each seed in turn is left out.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis import scores
from analysis.dataset import load
from analysis.paper import published
from analysis.records import RecordError
from analysis.statistics import Array
from analysis.tables import Table, frame, markdown, number
from experiments.commands import command

SCALE = 0.2
ZERO = "random"


def pattern(runs: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Scores averaged over tasks, by implementation and setting."""
    raw = scores.raw_scores(runs)
    tasks = {task for name, cells in raw.items() if "/" in name for task in cells}
    if untrained := sorted(tasks - set(raw.get(ZERO, {}))):
        raise RecordError(f"the pilot's {ZERO} policy is not trained yet on {', '.join(untrained)}")
    found: dict[str, dict[str, float]] = {}
    for implementation in dict.fromkeys(name.partition("/")[0] for name in raw if "/" in name):
        own = {name.partition("/")[2]: cells for name, cells in raw.items() if name.startswith(f"{implementation}/")}
        normalised = scores.table({**own, ZERO: raw.get(ZERO, {})})
        found[implementation] = {name: float(normalised[name]) for name in own}
    if not found:
        raise RecordError("no variant is named IMPLEMENTATION/SETTING; this is for a dataset of study=pilot")
    return found


def distance(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """Of two sets of scores, over the settings of the first."""
    apart = [bent(ours[name]) - bent(theirs[name]) for name in ours]
    return float(np.sqrt(np.mean(np.square(apart))))


def bent(score: ArrayLike) -> Array:
    """Scores on the scale of the distance, elementwise."""
    return np.arcsinh(np.asarray(score) / SCALE)


def settings_of(found: pd.DataFrame) -> list[str]:
    """The settings of `ranked`, in the paper's order."""
    return [name for name in published.table1().index if name in found]


def ranked(runs: pd.DataFrame) -> pd.DataFrame:
    """Implementations, the nearest first: scores, distance, and its range over seeds left out."""
    theirs = published.table1()["score"].to_dict()
    learns = runs["variant"] != ZERO
    without = [pattern(runs[~learns | (runs["seed"] != seed)]) for seed in runs.loc[learns, "seed"].unique()]
    rows = []
    for implementation, ours in pattern(runs).items():
        less = [distance(found[implementation], theirs) for found in without]
        rows.append({"implementation": implementation, **ours, "distance": distance(ours, theirs),
                     "low": min(less), "high": max(less)})  # fmt: skip
    return pd.DataFrame(rows).sort_values("distance", ignore_index=True)


def table(found: pd.DataFrame) -> Table:
    """As it is printed, the published row first."""
    theirs = published.table1()["score"]
    settings = settings_of(found)
    first = pd.DataFrame([{"implementation": "published (7 tasks)", **theirs[settings], "distance": 0.0}])
    values = pd.concat([first, found[["implementation", *settings, "distance", "low", "high"]]], ignore_index=True)
    shown = values.assign(**{name: values[name].map(number) for name in values.columns[1:]})
    caption = "Distance to Table 1, and its range when each seed is left out. Exploratory: chosen by looking."
    return Table("pilot", "The nearest implementation", caption, frame(shown.to_dict("records")), values)


@command(RecordError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.pilot", description="Distance to the paper's pattern.")
    parser.add_argument("dataset", type=Path, help="of study=pilot, as analysis.collect or analysis.parts writes it")
    options = parser.parse_args(arguments)
    print(markdown(table(ranked(load(options.dataset).runs))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
