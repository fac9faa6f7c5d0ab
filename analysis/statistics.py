"""Statistics of scores over environments and runs: points, intervals, tests.

Scores are one float64 array per environment with the runs on its last axis: crashed runs make counts unequal, and a
list of arrays holds that without NaN. Axes before the last are resamples: every point statistic maps arrays (…, runs)
to (…), so a bootstrap evaluates all its resamples in one call. Results have the unit of the scores: raw or normalised.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.records import RecordError

Array = npt.NDArray[np.float64]
Scores = Sequence[Array]
Statistic = Callable[[Scores], Array]

LEVEL = 0.95
RESAMPLES = 4000
FEW = 10  # seeds; below it the bootstrap's intervals are too short (analysis/coverage.py)


class Interval(NamedTuple):
    """An interval, how it was made ("t", "bootstrap", "fixed" (bootstrap, its references kept) or "pool"), and
    whether a heavy tail makes it doubtful."""

    low: float
    high: float
    method: str
    heavy_tailed: bool


class Comparison(NamedTuple):
    """A difference of means over environments (first − second), its standard error, degrees of freedom, two-sided p."""

    difference: Array
    error: Array
    dof: Array
    p: Array


def checked(scores: Scores, least: int = 1) -> list[Array]:
    """The scores as float64, or one sentence about what is wrong with them."""
    arrays = [np.asarray(runs, dtype=np.float64) for runs in scores]
    if not arrays:
        raise RecordError("there are no scores: not one environment")
    for number, runs in enumerate(arrays):
        if runs.ndim == 0 or runs.shape[-1] < least:
            have = runs.shape[-1] if runs.ndim else 0
            raise RecordError(f"environment {number} has {have} run(s), and at least {least} are needed")
        if not np.isfinite(runs).all():
            raise RecordError(f"environment {number} has scores that are not finite; impute or drop them first")
    return arrays


def paired(x: Scores, y: Scores, least: int = 1) -> tuple[list[Array], list[Array]]:
    """Two sets of scores on the same environments."""
    if len(x) != len(y):
        raise RecordError(f"scores on {len(x)} environments cannot be compared with scores on {len(y)}")
    return checked(x, least), checked(y, least)


# Points: Scores of (…, runs) -> (…)


def means(scores: Scores) -> Array:
    """(…, environments): the mean over runs of each environment."""
    return np.stack([runs.mean(-1) for runs in scores], -1)


def mean(scores: Scores) -> Array:
    """Mean over runs, then over environments: the paper's "averaged over all 21 runs" (section 6.1) where counts are
    equal; where they are not, an environment that lost a run still weighs as much as the others."""
    return means(scores).mean(-1)


def median(scores: Scores) -> Array:
    """Median over environments of the means over runs."""
    return np.median(means(scores), -1)


def interquartile_mean(scores: Scores) -> Array:
    """Mean of the middle half of all runs of all environments (Agarwal et al. 2021, arXiv:2108.13264). Each run counts
    alike where counts are equal; where they are not, each environment does, and its runs share its weight. Only
    normalised scores can be pooled like this."""
    runs = np.concatenate(scores, -1)
    counts = np.array([each.shape[-1] for each in scores])
    if (counts == counts[0]).all():
        return stats.trim_mean(runs, 0.25, axis=-1)
    order = runs.argsort(axis=-1)
    ends = np.repeat(1 / (len(counts) * counts), counts)[order].cumsum(axis=-1)
    starts = np.concatenate([np.zeros_like(ends[..., :1]), ends[..., :-1]], -1)
    weights = np.clip(ends, 0.25, 0.75) - np.clip(starts, 0.25, 0.75)
    return (weights * np.take_along_axis(runs, order, -1)).sum(-1) / weights.sum(-1)


def optimality_gap(scores: Scores, gamma: float = 1.0) -> Array:
    """How far runs fall short of `gamma` on average, runs above it counted as `gamma` (Agarwal et al. 2021)."""
    return gamma - mean([np.minimum(runs, gamma) for runs in scores])


def performance_profile(scores: Scores, thresholds: Array) -> Array:
    """(…, thresholds): share of runs with a score above each threshold, averaged over environments
    (Agarwal et al. 2021)."""
    return np.mean([(runs[..., None] > thresholds).mean(-2) for runs in scores], axis=0)


def probability_of_improvement(x: Scores, y: Scores) -> Array:
    """P(a run of x scores above a run of y), ties one half: the Mann-Whitney statistic over its largest value, averaged
    over environments (Agarwal et al. 2021)."""
    wins = []
    for a, b in zip(x, y, strict=True):
        left, right = a[..., :, None], b[..., None, :]
        wins.append((left > right).mean((-2, -1)) + 0.5 * (left == right).mean((-2, -1)))
    return np.mean(wins, axis=0)


def area_under_curve(env_steps: Array, returns: Array) -> Array:
    """Mean height of learning curves `returns` (…, points) over `env_steps` (points,): trapezoids over the span."""
    if len(env_steps) < 2 or not (np.diff(env_steps) > 0).all():
        raise RecordError("a curve needs at least two env steps, in increasing order")
    return np.trapezoid(returns, env_steps, axis=-1) / (env_steps[-1] - env_steps[0])


# Intervals


def t_interval(scores: Scores, level: float = LEVEL) -> Array:
    """(low, high) of `mean`, shape (2, …): Student's t on Σ s²/n / E², degrees of freedom by Welch and Satterthwaite.
    Environments may differ in spread and in number of runs (two at least); it trusts the runs of each to be about
    normal."""
    scores = checked(scores, least=2)
    error, dof = _standard_error(scores, len(scores))
    return mean(scores) + np.multiply.outer([-1.0, 1.0], stats.t.ppf((1 + level) / 2, dof) * error)


def _standard_error(cells: Scores, environments: int, fresh_seeds: float = np.inf) -> tuple[Array, Array]:
    """Standard error of a sum of the cells' means, divided by the number of environments, and its degrees of freedom
    (Satterthwaite), both (…). With `fresh_seeds` k, of its difference to k fresh runs per cell: s² (1/n + 1/k)."""
    counts = np.array([runs.shape[-1] for runs in cells])
    variances = np.stack([_variance(runs) for runs in cells], -1) * (1 / counts + 1 / fresh_seeds)
    total = variances.sum(-1)
    shares = variances / np.where(total == 0, 1, total)[..., None]
    with np.errstate(divide="ignore"):
        dof = 1 / (shares**2 / (counts - 1)).sum(-1)  # infinite where nothing varies
    return np.sqrt(total) / environments, dof


def _variance(runs: Array) -> Array:
    """Sample variance; exactly 0 of equal runs, which rounding of their mean would hide."""
    return np.where(np.ptp(runs, axis=-1) == 0, 0.0, runs.var(-1, ddof=1))


def resample(scores: Scores, rng: np.random.Generator, resamples: int, seeds: int | None = None) -> list[Array]:
    """(resamples, seeds) per environment: runs drawn with replacement within it, as many as there are by default."""
    return [runs[rng.integers(runs.size, size=(resamples, seeds or runs.size))] for runs in scores]


def bootstrap_interval(
    scores: Scores, statistic: Statistic, rng: np.random.Generator, level: float = LEVEL, resamples: int = RESAMPLES
) -> Array:
    """(low, high) of any statistic, shape (2, …): stratified percentile bootstrap. `scores` may hold any groups of runs
    (two variants, or all with a random policy), so that a statistic which normalises finds its references anew in each
    resample."""
    values = statistic(resample(checked(scores), rng, resamples))
    return np.quantile(values, _tails(level), axis=0)


def _tails(level: float) -> list[float]:
    return [(1 - level) / 2, (1 + level) / 2]


def interval(scores: Scores, rng: np.random.Generator, level: float = LEVEL, resamples: int = RESAMPLES) -> Interval:
    """Interval of `mean`: t below ten seeds in any environment, the stratified bootstrap from ten."""
    scores = checked(scores, least=2)
    few = fewest(scores) < FEW
    low, high = t_interval(scores, level) if few else bootstrap_interval(scores, mean, rng, level, resamples)
    return Interval(float(low), float(high), "t" if few else "bootstrap", heavy_tailed(scores))


def fewest(scores: Scores) -> int:
    """Runs of the environment that has fewest."""
    return min(runs.shape[-1] for runs in scores)


def heavy_tailed(scores: Scores) -> bool:
    """Whether the mean hinges on one run: without an environment's farthest run (from its median) the standard error
    would halve. Seven normal environments of three runs hardly ever look so; three normal runs alone do every other
    time, for nothing can be known from them. A tail that no run has shown cannot be seen."""
    arrays = checked(scores, least=2)
    parts = np.array([_variance(runs) / runs.size for runs in arrays])
    without = np.zeros_like(parts)  # of two runs one is left, and nothing is known
    for number, runs in enumerate(arrays):
        if runs.size > 2:
            rest = np.delete(runs, np.argmax(np.abs(runs - np.median(runs))))
            without[number] = _variance(rest) / rest.size
    return bool((parts.sum() - parts + without < parts.sum() / 4).any())


def prediction_interval(
    scores: Scores, rng: np.random.Generator, seeds: int = 3, level: float = LEVEL, draws: int = RESAMPLES
) -> Interval:
    """Where the `mean` of a fresh table of `seeds` runs per environment falls with probability `level`: what a
    published score of so few seeds is to be judged by, not the interval of our own mean alone."""
    scores = checked(scores, least=2)
    tables = widened(mean(resample(scores, rng, draws, seeds)), scores, rng, seeds)
    low, high = np.quantile(tables, _tails(level))
    return Interval(float(low), float(high), "pool", heavy_tailed(scores))


def widened(tables: Array, scores: Scores, rng: np.random.Generator, seeds: int = 3) -> Array:
    """Scores `tables` (draws,) of tables drawn from a pool of `scores`, `seeds` runs per environment, turned into those
    of fresh tables: centre and shape stay, the spread becomes that of a fresh mean about ours, s² (1/n + 1/seeds)
    instead of s² (n − 1)/n / seeds, and estimating s adds Student's tails. For normal runs that is the t prediction."""
    error, dof = _standard_error(scores, len(scores), seeds)
    if error == 0:
        return tables
    drawn = np.sqrt(sum(runs.var() for runs in scores) / seeds) / len(scores)
    tails = np.sqrt(dof / rng.chisquare(dof, size=tables.shape))
    return tables.mean() + (tables - tables.mean()) * (error / drawn) * tails


# Tests of two sets of scores on the same environments


def welch_test(x: Scores, y: Scores) -> Comparison:
    """Welch's t test of the difference of `mean`, environments as strata; of one environment, the textbook's.
    Vectorised over leading axes. Where nothing varies, p is 1 if the means are equal and 0 if not."""
    x, y = paired(x, y, least=2)
    difference = mean(x) - mean(y)
    error, dof = _standard_error([*x, *y], len(x))
    still = error == 0
    same = np.abs(difference) <= _rounding(x, y)
    p = np.where(still, np.where(same, 1.0, 0.0), 2 * stats.t.sf(np.abs(difference) / np.where(still, 1, error), dof))
    return Comparison(difference, error, dof, p)


def difference_interval(seen: Comparison, level: float = LEVEL) -> tuple[float, float]:
    """(low, high) of one comparison's difference."""
    reach = float(stats.t.ppf((1 + level) / 2, seen.dof) * seen.error)
    return float(seen.difference) - reach, float(seen.difference) + reach


def _rounding(x: Scores, y: Scores) -> float:
    """Differences of means up to this one are equal: sums were taken in another order."""
    return 1e-12 * max(float(np.abs(runs).max()) for runs in (*x, *y))


def permutation_test(x: Scores, y: Scores, rng: np.random.Generator, permutations: int = 10_000) -> float:
    """Two-sided p of the difference of `mean` when labels are shuffled within environments: a test of "the same
    distribution". The observed labelling counts as one permutation, so p is never 0."""
    x, y = paired(x, y)
    first, second = [], []
    for a, b in zip(x, y, strict=True):
        shuffled = rng.permuted(np.tile(np.concatenate([a, b]), (permutations, 1)), axis=1)
        first.append(shuffled[:, : a.size])
        second.append(shuffled[:, a.size :])
    observed = abs(mean(x) - mean(y))
    as_far = np.abs(mean(first) - mean(second)) >= observed - _rounding(x, y)
    return float((1 + as_far.sum()) / (1 + permutations))


def holm(p: Array) -> Array:
    """p values adjusted for there being several (Holm 1979): reject those at or below alpha."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
