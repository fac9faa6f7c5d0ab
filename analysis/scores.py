"""From returns to the paper's scores (section 6.1): the mean return of a run's last 100 episodes, shifted and scaled
per environment so that a random policy scores 0 and the best result 1.

Raw scores are `raw[variant][environment]`, float64 arrays (…, runs) in units of return; axes before the last are
resamples, as in `analysis.statistics`. The variants of a table share its references, so resamples are drawn of all
cells together. Runs of one seed share their random draws across variants, and are treated as independent all the same.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis import equal_codes, statistics
from analysis.records import RecordError
from analysis.statistics import LEVEL, RESAMPLES, Array, Interval, Scores, mean, resample

Raw = Mapping[str, Mapping[str, Array]]
ZeroFrom = Literal["random", "initial"]
OneFrom = Literal["variant", "run"]

UNTRAINED = ("random", "initial")  # uniform actions; the untrained Gaussian policy. No table ranks them


class Scaling(NamedTuple):
    """What scores 0 and what scores 1. The paper says "a random policy" and "the best result", which leaves open:
    uniform actions or the untrained ("initial") Gaussian; the best variant's mean or the best single run, which rises
    with the number of seeds."""

    random_from: ZeroFrom = "random"
    best_from: OneFrom = "variant"


SCALING = Scaling()


class References(NamedTuple):
    """Per environment, the raw score that becomes 0 and the one that becomes 1; (…) where there are resamples."""

    zero: Mapping[str, Array]
    one: Mapping[str, Array]


def one_kind(runs: pd.DataFrame, **chosen: str | None) -> pd.DataFrame:
    """A dataset's runs with the chosen profile, code_id, …; without a choice there must be only one."""
    for column, choice in chosen.items():
        kept = runs if choice is None else runs[runs[column] == choice]
        same = equal_codes.one_name() if column == "code_id" else {}
        if kept[column].replace(same).nunique() != 1:
            raise RecordError(f"choose one {column} of {', '.join(sorted(runs[column].unique())) or 'no runs at all'}")
        runs = kept
    return runs


def raw_scores(runs: pd.DataFrame, diverged: Literal["worst", "plain"] = "worst") -> dict[str, dict[str, Array]]:
    """`raw` from a dataset's finished runs, in the order of their seeds. "worst": a run that diverged, or finished no
    episode, gets the score of its environment's worst run over all variants, for dropping it, or keeping what it had
    before, would flatter its variant. "plain": its own score, if any. A run whose environment was faulty says nothing
    of its variant and counts nowhere."""
    finished = runs[~runs["status"].isin(["partial", "faulty"])].sort_values(["variant", "env", "seed"])
    if (twice := finished[finished.duplicated(["variant", "env", "seed"])]).size:
        raise RecordError("two runs of {variant} on {env} with seed {seed}".format(**twice.iloc[0]))
    score = finished["score"].astype(float)
    score = score.where(np.isfinite(score))
    if diverged == "worst":
        worst = score.groupby(finished["env"]).transform("min")
        score = score.where((finished["status"] != "diverged") & score.notna(), worst)
    raw: dict[str, dict[str, Array]] = {}
    for (variant, environment), cell in score.dropna().groupby([finished["variant"], finished["env"]]):
        raw.setdefault(variant, {})[environment] = cell.to_numpy()
    return raw


def trained(raw: Raw) -> list[str]:
    """The variants that learn: at least one."""
    if learn := [variant for variant in raw if variant not in UNTRAINED]:
        return learn
    raise RecordError("there is no finished run of a variant that learns")


def require_complete(raw: Raw, variants: Iterable[str], runs: int = 1) -> list[str]:
    """The environments, if all the variants have at least so many runs on each of them."""
    environments = sorted({environment for cells in raw.values() for environment in cells})
    missing = [
        f"{variant} on {environment}"
        for variant in variants
        for environment in environments
        if raw.get(variant, {}).get(environment, np.empty(0)).shape[-1] < runs
    ]
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    if missing:
        raise RecordError(f"fewer than {runs} scored run{'s' * (runs > 1)} of {', '.join(missing[:10])}{more}")
    return environments


def references(raw: Raw, scaling: Scaling = SCALING) -> References:
    """Both references of each environment, from all of its runs. A resample in which no variant is better than the
    random policy has no scale: its 1 is NaN, and so are its scores. Of the data themselves that is a RecordError."""
    environments = require_complete(raw, [scaling.random_from, *trained(raw)])
    zero, one = {}, {}
    for environment in environments:
        cells = [raw[variant][environment] for variant in trained(raw)]
        results = [runs.mean(-1) if scaling.best_from == "variant" else runs.max(-1) for runs in cells]
        zero[environment], best = raw[scaling.random_from][environment].mean(-1), np.max(results, axis=0)
        if best.ndim == 0 and not best > zero[environment]:
            raise RecordError(f"no variant is better than the {scaling.random_from} policy on {environment}")
        one[environment] = np.where(best > zero[environment], best, np.nan)
    return References(zero, one)


def human_references(table: pd.DataFrame, environments: Iterable[str]) -> References:
    """0: random, 1: human, from a table by environment with these two columns, such as `published.atari_human()`."""
    wanted = list(environments)
    if unknown := sorted(set(wanted) - set(table.index)):
        raise RecordError(f"no human score of {', '.join(unknown)}")
    zero, one = ({e: np.array(table.loc[e, column]) for e in wanted} for column in ("random", "human"))
    return References(zero, one)


def normalise(raw: Raw, to: References) -> dict[str, dict[str, Array]]:
    """Raw scores as shares of the way from one reference to the other, shapes kept."""
    span = {e: to.one[e] - zero for e, zero in to.zero.items()}
    return {
        variant: {e: (runs - to.zero[e][..., None]) / span[e][..., None] for e, runs in cells.items()}
        for variant, cells in raw.items()
    }


def table(raw: Raw, scaling: Scaling = SCALING) -> dict[str, Array]:
    """The paper's score of every variant that learns, (…): normalised scores averaged over runs and environments."""
    scores = normalise(raw, references(raw, scaling))
    return {variant: mean(list(scores[variant].values())) for variant in trained(raw)}


def drawn_tables(
    raw: Raw, rng: np.random.Generator, scaling: Scaling, seeds: int, draws: int, replace: bool = False
) -> dict[str, Array]:
    """Scores (draws,) of tables of `seeds` runs per cell drawn from ours, each with its own best result. Without
    replacement they are parts of our table; with it, they stand for new ones. The random policy keeps all its runs."""
    require_complete(raw, trained(raw), seeds)

    def drawn(runs: Array) -> Array:
        if replace:
            return resample([runs], rng, draws, seeds)[0]
        return runs[rng.random((draws, runs.size)).argsort(axis=1)[:, :seeds]]

    tables = {variant: {e: drawn(runs) for e, runs in raw[variant].items()} for variant in trained(raw)}
    found = table({**raw, **tables}, scaling)
    if lost := int((~np.isfinite(next(iter(found.values())))).sum()):
        raise RecordError(
            f"in {lost:,} of {draws:,} tables of {seeds} seeds drawn from these runs no variant is better than the "
            f"{scaling.random_from} policy on some task, so such tables have no scores"
        )
    return found


def paper_table(
    raw: Raw, rng: np.random.Generator, scaling: Scaling = SCALING, seeds: int = 3, draws: int = 1000
) -> pd.DataFrame:
    """Per variant the mean and the standard deviation (score, spread) of its score over random tables of `seeds` runs,
    parts of ours: the best single run of more seeds than the paper's would stand too high. Of exactly `seeds` runs
    there is one such table, and no spread."""
    tables = drawn_tables(raw, rng, scaling, seeds, draws)
    rows = {variant: (scores.mean(), scores.std()) for variant, scores in tables.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["score", "spread"])


def score_intervals(
    raw: Raw, rng: np.random.Generator, scaling: Scaling = SCALING, level: float = LEVEL, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Interval of every variant's score in `table`. From ten seeds a bootstrap finds the references anew in each
    resample, unless a resample has none (see `references`): then they are kept, and the method is "fixed". Below ten,
    t intervals take them for exact, which leaves out what they contribute: simulated with Table 1's
    means and spreads and 3 seeds, they hold a score's expectation in 91 % of cases instead of 95 %, and in 81 % where
    the best single run scores 1."""
    variants = trained(raw)
    require_complete(raw, variants, 2)
    scores = normalise(raw, references(raw, scaling))
    strata = {variant: list(scores[variant].values()) for variant in variants}
    keys = [(v, e) for v in (*variants, scaling.random_from) for e in raw[v]]

    def resampled_table(cells: Scores) -> Array:
        again: dict[str, dict[str, Array]] = {}
        for (variant, environment), runs in zip(keys, cells, strict=True):
            again.setdefault(variant, {})[environment] = runs
        return np.stack(list(table(again, scaling).values()), -1)

    method = "t" if min(map(statistics.fewest, strata.values())) < statistics.FEW else "bootstrap"
    if method == "t":
        ends = np.stack([statistics.t_interval(cells, level) for cells in strata.values()], -1)
    else:
        ends = statistics.bootstrap_interval([raw[v][e] for v, e in keys], resampled_table, rng, level, resamples)
    if not np.isfinite(ends).all():
        method, kept = (
            "fixed",
            [statistics.bootstrap_interval(cells, mean, rng, level, resamples) for cells in strata.values()],
        )
        ends = np.stack(kept, -1)
    return {
        v: Interval(float(low), float(high), method, statistics.heavy_tailed(strata[v]))
        for v, low, high in zip(variants, *ends, strict=True)
    }
