"""Learning curves: returns against env steps, as bins over a run's budget.

A run's value in a bin is the mean return of the episodes that ended in it, and NaN where none did: nothing is carried
across a gap. What is drawn for several runs ends where the first of them ends, and has a gap where one of them has.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.dataset import Dataset
from analysis.statistics import FEW, LEVEL, Array, area_under_curve

EPISODE = ("env_step", "return")
FINEST = 100  # bins over a budget
COARSER = (1, 2, 4, 5, 10)  # so many of them become one, until a bin is a mean of several episodes
ENOUGH = 3  # episodes in a bin
FILLED = 0.98  # share of a task's bins that must have them


class Curves(NamedTuple):
    """Of one task: the bins' upper ends (bins,) in env steps, and by variant the runs' values (runs, bins)."""

    env_steps: Array
    runs: dict[str, Array]


class Band(NamedTuple):
    """A variant's mean over runs and its interval, each (bins,)."""

    centre: Array
    low: Array
    high: Array


def learning_curves(dataset: Dataset, runs: pd.DataFrame) -> dict[str, Curves]:
    """By task, of the given rows of the dataset's `runs`."""
    return by_task(runs, rows_of(dataset, runs["run"], EPISODE))


def by_task(runs: pd.DataFrame, episodes: Iterable[Sequence[Array]]) -> dict[str, Curves]:
    """The curves of `runs`, which says of each its env, its variant, its budget and the env steps it has reached, from
    their `episodes`, piece by piece: the run's place in `runs`, the env step and the return."""
    spans = runs.groupby("env")["budget"].transform("max").to_numpy()
    sums, counts = fill(episodes, spans)
    found: dict[str, Curves] = {}
    for environment, rows in sorted(runs.reset_index(drop=True).groupby("env")):
        of_task = rows.index.to_numpy()
        reached = np.ceil(rows["env_steps"].to_numpy() / spans[of_task] * FINEST).astype(int)
        together = coarseness(counts[of_task], reached)
        total, count = (wider(values[of_task], together) for values in (sums, counts))
        values = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        ends = np.linspace(0, spans[of_task[0]], values.shape[1] + 1)[1:]
        by_variant = {str(name): values[rows["variant"].to_numpy() == name] for name in rows["variant"].unique()}
        found[str(environment)] = Curves(ends, by_variant)
    return found


def rows_of(dataset: Dataset, keys: Iterable[str], columns: Sequence[str]) -> Iterator[list[Array]]:
    """The episodes of the runs named by `keys`, piece by piece: the run's place among the keys, and these columns."""
    index = pd.Index(keys)
    for batch in dataset.batches("episodes", columns):
        codes = index.get_indexer(pd.Index(batch["run"].dictionary.to_pylist()))
        run = codes[batch["run"].indices.to_numpy()]
        yield [values[run >= 0] for values in (run, *(batch[name].to_numpy() for name in columns))]


def fill(episodes: Iterable[Sequence[Array]], spans: Array) -> tuple[Array, Array]:
    """Sums of returns and numbers of episodes, (runs, bins), where `spans` (runs,) are the env steps that the bins
    divide; see `by_task` for `episodes`."""
    sums, counts = np.zeros((2, len(spans) * FINEST))
    for run, step, value in episodes:
        cell = run * FINEST + np.minimum((step - 1) * FINEST // spans[run], FINEST - 1)
        low, high = (int(cell.min()), int(cell.max()) + 1) if cell.size else (0, 0)
        sums[low:high] += np.bincount(cell - low, value, high - low)
        counts[low:high] += np.bincount(cell - low, minlength=high - low)
    return sums.reshape(-1, FINEST), counts.reshape(-1, FINEST)


def score_spans(dataset: Dataset, runs: pd.DataFrame) -> pd.Series:
    """By `run`: the share of a run's env steps that lies between the episode before its score's first one and its last
    one, of the given rows of `runs`."""
    index = pd.Index(runs["run"])
    before = (runs["episodes"] - runs["score_episodes"]).to_numpy()  # how many episodes the score leaves out
    seen, starts, ends = np.zeros((3, len(index)), dtype=np.int64)
    for run, step in rows_of(dataset, index, ["env_step"]):
        for number in np.unique(run):
            rows = step[run == number]
            place = before[number] - seen[number] - 1
            if 0 <= place < len(rows):
                starts[number] = rows[place]
            seen[number] += len(rows)
            ends[number] = rows[-1]
    return pd.Series((ends - starts) / runs["env_steps"].to_numpy(), index=index)


def coarseness(counts: Array, reached: Sequence[int]) -> int:
    """How many bins become one, so that most of those that runs have reached hold enough episodes; (runs, bins) and
    (runs,)."""
    for together in COARSER:
        count = wider(counts, together)
        inside = np.arange(count.shape[1]) < np.asarray(reached)[:, None] // together
        if (count[inside] >= ENOUGH).mean() >= FILLED:
            break
    return together


def wider(values: Array, together: int) -> Array:
    return values.reshape(len(values), -1, together).sum(-1)


def pooled(values: Array, bins: int) -> Array:
    """Curves (…, bins) in fewer bins: the mean of those whose middle lies in the new one, NaN if one of them is."""
    count = values.shape[-1]
    owner = (2 * np.arange(count) + 1) * bins // (2 * count)
    return np.stack([values[..., owner == number].mean(axis=-1) for number in range(bins)], axis=-1)


def band(runs: Array, level: float = LEVEL) -> Band:
    """Mean over runs (runs, bins) with Student's t interval in each bin; NaN where a run has no value, and no interval
    of one run."""
    count, centre = len(runs), runs.mean(axis=0)
    if count < 2:
        return Band(centre, np.full_like(centre, np.nan), np.full_like(centre, np.nan))
    reach = stats.t.ppf((1 + level) / 2, count - 1) * runs.std(axis=0, ddof=1) / np.sqrt(count)
    return Band(centre, centre - reach, centre + reach)


def few(curves: Curves) -> bool:
    """So few runs that each can be drawn."""
    return max(map(len, curves.runs.values())) < FEW


def areas(curves: Curves, variant: str, end: float = np.inf) -> Array:
    """Mean height (runs,) of a variant's curves up to `end` env steps, gaps bridged; NaN for a run of fewer than two
    bins there."""
    early = curves.env_steps <= end
    found = [
        (curves.env_steps[there], run[there]) for run in curves.runs[variant] for there in [np.isfinite(run) & early]
    ]
    return np.array([area_under_curve(*points) if points[0].size > 1 else np.nan for points in found])
