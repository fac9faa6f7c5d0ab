"""Is Table 1 reproduced? How the published scores look among re-runs of the paper's 3 seeds, drawn from ours.

python -m analysis.replicate DATASET [--random random|initial] [--best variant|run] [--draws 10000] [--seed 0]

A re-run draws 3 runs per variant and task from the dataset's and normalises them by its own best results, as the paper
did; re-runs are then widened for what our own runs leave unknown. Were the paper's runs of the same kind as ours, its
table would be one more re-run. So each published score is judged by its place among them, and all together by how many
of them have a likely one. The order of the variants is described, and judges nothing: re-runs stand about our own means
and share the luck of these, so they agree with each other, and with our means, better than two tables of one truth do.
Held against them at 1.7 %, the order of a table of the same kind would be called another one in 12 % of the cases where
ten rows are equal.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from analysis.dataset import load
from analysis.paper import published
from analysis.paper.published import TASKS
from analysis.records import RecordError
from analysis.scores import (
    Raw,
    Scaling,
    drawn_tables,
    normalise,
    one_kind,
    paper_table,
    raw_scores,
    references,
)
from analysis.statistics import FEW, LEVEL, Array, fewest, heavy_tailed, holm, widened
from experiments.commands import command
from experiments.records.schema import SCORE_EPISODES

SEEDS = 3  # section 6.1
ROUNDING = 0.005  # Table 1 prints two decimals
ALPHA = 0.05 / 2  # of each question that `verdict` asks
FEWEST_DRAWS = 1000  # the smallest p is 1 / draws; allowing for eleven rows it has to fall below ALPHA


def reruns(raw: Raw, rng: np.random.Generator, scaling: Scaling, draws: int, seeds: int = SEEDS) -> pd.DataFrame:
    """Scores of re-runs, a row each, a column per variant; their centre is `paper_table`'s."""
    centre = paper_table(raw, rng, scaling, seeds, draws)["score"]
    drawn = drawn_tables(raw, rng, scaling, seeds, draws, replace=True)
    scores = normalise(raw, references(raw, scaling))
    fresh = {v: widened(tables, list(scores[v].values()), rng, seeds) for v, tables in drawn.items()}
    return pd.DataFrame({v: tables - tables.mean() + centre[v] for v, tables in fresh.items()})


def places(printed: pd.Series, again: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """Per variant: the published score, ours (mean of the re-runs), the prediction interval [low, high], the published
    one's quantile among the re-runs, the share of re-runs at least as far from our mean (`as_far`, a two-sided p, and
    `holm`, adjusted for the number of rows), and the share that would print the same two decimals (`same`)."""
    ours = again.mean()
    p = (1 + ((again - ours).abs() >= (printed - ours).abs()).sum()) / (1 + len(again))
    return pd.DataFrame(
        {
            "published": printed,
            "ours": ours,
            "low": again.quantile((1 - level) / 2),
            "high": again.quantile((1 + level) / 2),
            "quantile": (again < printed).mean(),
            "as_far": p,
            "holm": holm(p.to_numpy()),
            "same": ((again - printed).abs() <= ROUNDING).mean(),
        }
    )


def kendall(tables: Array, scores: Array) -> Array:
    """Kendall's tau-b between each row of `tables` and of `scores`, (…, variants) both."""
    first, second = np.triu_indices(scores.shape[-1], 1)
    left, right = (np.sign(rows[..., first] - rows[..., second]) for rows in (tables, scores))
    untied = np.count_nonzero(left, axis=-1) * np.count_nonzero(right, axis=-1)
    return (left * right).sum(-1) / np.sqrt(np.maximum(untied, 1))  # 0 where all is tied


def spearman(tables: Array, scores: Array) -> Array:
    """Spearman's rho between each row of `tables` and of `scores`, (…, variants) both."""
    ranks = (stats.rankdata(rows, axis=-1) for rows in (tables, scores))
    left, right = (each - each.mean(-1, keepdims=True) for each in ranks)
    lengths = np.sqrt((left**2).sum(-1) * (right**2).sum(-1))
    return (left * right).sum(-1) / np.where(lengths == 0, 1, lengths)  # 0 where all is tied


def agreement(printed: pd.Series, again: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """Kendall's tau and Spearman's rho, a row each. `ours`: between the published scores and our means; `low`,
    `median`, `high`: with re-runs in the place of our means. `own_low`, `own_median`, `own_high`: between two re-runs,
    of the first and the second half of them."""
    ends = [(1 - level) / 2, 0.5, (1 + level) / 2]
    ours, tables, paper = again.mean().to_numpy(), again.to_numpy(), printed[again.columns].to_numpy()
    half, rows = len(tables) // 2, {}
    for name, correlation in (("Kendall", kendall), ("Spearman", spearman)):
        across, own = correlation(tables, paper), correlation(tables[:half], tables[half : 2 * half])
        rows[name] = [float(correlation(ours, paper)), *np.quantile(across, ends), *np.quantile(own, ends)]
    columns = ["ours", "low", "median", "high", "own_low", "own_median", "own_high"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def inside(table: pd.DataFrame, again: pd.DataFrame) -> tuple[int, float]:
    """How many published scores lie in the prediction intervals of `places`, and in what share of the re-runs no more
    scores do."""
    count = int(table["published"].between(table["low"], table["high"]).sum())
    return count, float((again.ge(table["low"]) & again.le(table["high"])).sum(axis=1).le(count).mean())


def doubts(table: pd.DataFrame, again: pd.DataFrame) -> list[str]:
    """What speaks against a table like re-runs, each asked at `ALPHA`: is a row too far off, are too many?"""
    differs = list(table.index[table["holm"] < ALPHA])
    _, fewer = inside(table, again)
    return [f"the score of {', '.join(differs)}"] * bool(differs) + ["too many scores at once"] * (fewer < ALPHA)


def verdict(table: pd.DataFrame, ranks: pd.DataFrame, again: pd.DataFrame) -> list[str]:
    """The answer in words. A "no" is as sure as `doubts` are; a "yes" is worth what the width of the intervals leaves
    it."""
    count, fewer = inside(table, again)
    outside = table[~table["published"].between(table["low"], table["high"])]
    off = [f"{variant} ({row['published']:.2f}, ours {row['ours']:.2f})" for variant, row in outside.iterrows()]
    differs = list(table.index[table["holm"] < ALPHA])
    order = ranks.loc["Kendall"]
    width = float((table["high"] - table["low"]).median())
    span = float(np.ptp(table["published"].drop("unconstrained", errors="ignore")))
    said = [
        f"{count} of {len(table)} published scores lie inside the {LEVEL:.0%} prediction interval of a re-run "
        f"with {SEEDS} seeds; {fewer:.0%} of re-runs have no more inside.",
        f"Outside: {', '.join(off) or 'none'}; allowing for {len(table)} rows, beyond the luck of seeds: "
        f"{', '.join(differs) or 'none'} (Holm, {ALPHA:g}).",
        f"Kendall's tau between the published scores and ours is {order['ours']:.2f}; between two re-runs it is "
        f"{order['own_low']:.2f} to {order['own_high']:.2f}.",
    ]
    if "unconstrained" in again:
        below = (again["unconstrained"] < 0).mean()
        said.append(f"The score without clipping or penalty is negative in {below:.0%} of re-runs.")
    if "clip_0.2" in again:
        said.append(f"The paper's winner, clip_0.2, wins {(again.idxmax(axis=1) == 'clip_0.2').mean():.0%} of re-runs.")
    said.append(
        f"The intervals are {width:.2f} wide in the median; the published scores with penalty or clip span {span:.2f}."
    )
    if against := doubts(table, again):
        answer = f"no; against it speak{'s' * (len(against) == 1)} {' and '.join(against)}."
    elif width > span:
        answer = "nothing contradicts it, but scores of 3 seeds are too uncertain to tell the rows apart."
    else:
        answer = "yes, as far as a table of 3 seeds can show."
    return [*said, f"Reproduced? {answer.capitalize()}"]


def report(runs: pd.DataFrame, rng: np.random.Generator, scaling: Scaling, draws: int) -> str:
    """Table, order and words for the runs of one profile and code."""
    raw = raw_scores(runs)
    printed = published.table1()["score"]
    ranked = [variant for variant in printed.index if variant in raw]
    if len(ranked) < 2:
        raise RecordError("fewer than two variants of Table 1 are in the dataset: nothing to compare")
    raw = {variant: raw[variant] for variant in (*ranked, scaling.random_from) if variant in raw}
    again = reruns(raw, rng, scaling, draws)
    table, ranks = places(printed[ranked], again), agreement(printed[ranked], again)
    scores = normalise(raw, references(raw, scaling))
    cells = {variant: list(scores[variant].values()) for variant in ranked}
    tails = [variant for variant in ranked if heavy_tailed(cells[variant])]
    seeds, tasks = min(map(fewest, cells.values())), len(cells[ranked[0]])
    short = ((runs["score_episodes"] < SCORE_EPISODES) & ~runs["status"].isin(["partial", "faulty"])).sum()
    unfinished, diverged, faulty = ((runs["status"] == status).sum() for status in ("partial", "diverged", "faulty"))
    notes = [
        f"partial: {len(ranked)} of Table 1's {len(printed)} rows" * (len(ranked) < len(printed)),
        f"partial: {tasks} of the paper's {len(TASKS)} tasks, so these are not its averages" * (tasks != len(TASKS)),
        f"{unfinished} unfinished runs left out" * bool(unfinished),
        f"{faulty} faulty runs, whose environment handed out what is not finite, left out" * bool(faulty),
        f"{short} runs finished fewer than {SCORE_EPISODES} episodes and are scored on those" * bool(short),
        f"{diverged} diverged runs count as the worst of their task" * bool(diverged),
        f"{seeds} seeds: what a re-run may score is known roughly, and the intervals are as wide as that makes them"
        * (seeds < FEW),
        f"the means of {', '.join(tails)} hinge on one run: their intervals may still be too narrow" * bool(tails),
    ]
    tables = [table.to_string(float_format="{:.3f}".format), ranks.to_string(float_format="{:.2f}".format)]
    parts = ["\n".join(filter(None, notes)), *tables, "\n".join(verdict(table, ranks, again))]
    return "\n\n".join(filter(None, parts))


@command(RecordError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.replicate", description="Is Table 1 reproduced?")
    parser.add_argument("dataset", type=Path, help="folder of a dataset")
    parser.add_argument("--random", choices=["random", "initial"], default="random", help="policy that scores 0")
    parser.add_argument("--best", choices=["variant", "run"], default="variant", help="result that scores 1")
    parser.add_argument("--draws", type=int, default=10_000, help="re-runs")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--profile", help="if the dataset has several")
    parser.add_argument("--code-id", help="if the dataset has several")
    options = parser.parse_args(arguments)
    if options.draws < FEWEST_DRAWS:
        raise RecordError(f"with fewer than {FEWEST_DRAWS} draws no row could stand out")
    runs = one_kind(load(options.dataset).runs, profile=options.profile, code_id=options.code_id)
    scaling = Scaling(options.random, options.best)
    print(report(runs, np.random.default_rng(options.seed), scaling, options.draws))
    return 0


if __name__ == "__main__":
    sys.exit(main())
