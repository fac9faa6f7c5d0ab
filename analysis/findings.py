"""The tables of a report: what each holds, from Results alone, and when a dataset permits it."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from analysis import replicate, scores, statistics
from analysis.others import others_scores, published_scores
from analysis.paper import published
from analysis.records import RecordError
from analysis.results import LONG, Results
from analysis.scores import UNTRAINED, OneFrom, Scaling, ZeroFrom
from analysis.statistics import FEW, LEVEL, Array
from analysis.tables import Table, chance, frame, many, number, returns, span
from experiments.records.schema import SCORE_EPISODES

SYMBOLS = {"epsilon": "ε", "beta": "β", "d_targ": "d_targ"}
LEVEL_NAME = f"{LEVEL:.0%}"
ZERO: dict[ZeroFrom, str] = {"random": "uniformly random actions", "initial": "the untrained policy"}
ONE: dict[OneFrom, str] = {"variant": "the best variant's mean", "run": "the best single run"}
"""What scores 0 and what scores 1, in words."""


def table1(results: Results) -> Table:
    """The paper's Table 1 beside ours."""
    printed = published.table1().loc[results.paper_rows]
    places = replicate.places(printed["score"], results.reruns)
    intervals = scores.score_intervals(results.of_paper, results.rng(), results.options.scaling)
    rows, shown = [], []
    for variant, row in places.iterrows():
        low, high = intervals[variant][:2]
        words = verdict(row, len(places))
        rows.append({"variant": variant, "published": row["published"], "ours": row["ours"], "interval_low": low,
                     "interval_high": high, "prediction_low": row["low"], "prediction_high": row["high"],
                     "p_holm": row["holm"], "verdict": words})  # fmt: skip
        shown.append({"setting": setting(printed.loc[variant]), "published": number(row["published"]),
                      "ours": number(row["ours"]), f"{LEVEL_NAME} interval": span(low, high),
                      "a 3-seed re-run": span(row["low"], row["high"]), "verdict": words})  # fmt: skip
    caption = (
        f"Normalised score: {scale(results)}, averaged over {many(len(results.environments), 'task')} and all runs. "
        f"Ours: mean over tables of {replicate.SEEDS} seeds drawn from ours, each with its own best, as the paper's "
        f"was. Interval: of our mean ({how_many(results, 'seed')}){exactly(results)}. A 3-seed re-run: where "
        f"{LEVEL_NAME} of such tables fall."
    )
    return Table("table1", "Table 1 of the paper and ours", caption, frame(shown), frame(rows))


def readings(results: Results) -> Table:
    """Table 1 under each reading of what the paper leaves open, as far as the dataset has the policies."""
    rows, shown = [], []
    for zero, one in product(ZERO, ONE):
        found = Results(results.dataset, replace(results.options, scaling=Scaling(zero, one)))
        if not found.paper_rows:
            continue
        said = judged(found)
        rows.append({"random": zero, "best": one, **said})
        shown.append({"scores 0": ZERO[zero], "scores 1": ONE[one], "inside": f"{said['inside']} of {said['rows']}",
                      "re-runs with no more": f"{said['no_more']:.0%}", "against it": said["against"]})  # fmt: skip
    caption = (
        "The paper does not say which policy scores 0 and which result 1; above: "
        f"{scale(results)}. Inside: published scores within the {LEVEL_NAME} prediction interval of a re-run with "
        f"{replicate.SEEDS} seeds. Against it: what is beyond luck, each at {replicate.ALPHA:.1%}."
    )
    return Table("readings", "Table 1 under each reading of its scores", caption, frame(shown), frame(rows))


def judged(results: Results) -> dict[str, Any]:
    """How many of Table 1's rows are inside, in what share of re-runs no more are, and what speaks against it."""
    places = replicate.places(published.table1()["score"][results.paper_rows], results.reruns)
    count, fewer = replicate.inside(places, results.reruns)
    against = "; ".join(replicate.doubts(places, results.reruns)) or "nothing"
    return {"rows": len(places), "inside": count, "no_more": fewer, "against": against}


def verdict(row: pd.Series, rows: int) -> str:
    """A published score's place among re-runs of ours, in words; of so many rows some are off by luck."""
    if row["low"] <= row["published"] <= row["high"]:
        return "as a re-run would"
    side = "higher" if row["published"] > row["high"] else "lower"
    return f"published is {side}" + (
        ", beyond luck" if row["holm"] < replicate.ALPHA else f", may be luck among {rows} rows"
    )


def setting(row: pd.Series) -> str:
    """'Clipping, ε = 0.2': the paper's words."""
    if pd.isna(row["value"]):
        return str(row["setting"])
    return f"{row['setting']}, {SYMBOLS.get(row['parameter'], row['parameter'])} = {row['value']:g}"


def scale(results: Results) -> str:
    """What scores 0 and what scores 1, in words."""
    return f"0 is {ZERO[results.options.scaling.random_from]}, 1 is {ONE[results.options.scaling.best_from]} on a task"


def exactly(results: Results) -> str:
    """What intervals of normalised scores leave out; see `scores.score_intervals`."""
    return ", with the returns that score 0 and 1 taken for exact, so perhaps too narrow" * results.exact


def normalised_scores(results: Results) -> Table:
    """Normalised scores by task, with the mean over tasks and its interval."""
    rows, shown = [], []
    variants = [v for v in (*results.complete, *UNTRAINED) if v in results.normalised]
    for variant in variants:
        means = {e: float(runs.mean()) for e, runs in results.normalised[variant].items()}
        interval = results.intervals.get(variant)
        average = float(np.mean(list(means.values())))
        low, high = interval[:2] if interval else (np.nan, np.nan)
        doubt = "†" if interval and interval.heavy_tailed else ""
        rows.append({"variant": variant, **means, "mean": average, "low": low, "high": high})
        cells = {e: number(means.get(e, np.nan)) for e in results.environments}
        shown.append(
            {"variant": variant, **cells, "mean": number(average), f"{LEVEL_NAME} interval": span(low, high) + doubt}
        )
    method = "Welch–Satterthwaite t" if results.seeds < FEW else "stratified bootstrap"
    caption = (
        f"Means over runs; {scale(results)}. Interval: {method}{exactly(results)}. † hinges on one run: may be too "
        "narrow."
    )
    return Table("normalised", "Normalised scores by task", caption, frame(shown), frame(rows))


def raw_scores(results: Results) -> Table:
    """Raw scores by task, with spread and number of runs; what was counted anew where runs were short or diverged."""
    plain = scores.raw_scores(results.runs, "plain")
    odd = (results.runs["score_episodes"] < SCORE_EPISODES) | (results.runs["status"] == "diverged")
    odd &= results.runs["measure"] == "training episodes"
    flagged = set(zip(results.runs["variant"][odd], results.runs["env"][odd], strict=True))
    spanning = results.runs["run"].map(results.shares) > LONG
    early = set(zip(results.runs["variant"][spanning], results.runs["env"][spanning], strict=True))
    rows, shown = [], []
    for variant in results.variants:
        cells = {}
        for environment in results.environments:
            runs, counted = plain.get(variant, {}).get(environment), results.raw.get(variant, {}).get(environment)
            if counted is None:
                cells[environment] = "–"
                continue
            had = counted if runs is None else runs
            flag = (variant, environment) in flagged
            rows.append({"variant": variant, "env": environment, "runs": counted.size, "mean": had.mean(),
                         "std": deviation(had), "mean_with_worst": counted.mean(), "flagged": flag})  # fmt: skip
            cells[environment] = spread(had) + "†" * flag + "‡" * ((variant, environment) in early)
            if not np.isclose(had.mean(), counted.mean()):
                cells[environment] += f" ({returns(counted.mean())})"
        shown.append({"variant": variant, **cells})
    if results.references:
        for name, of_task in (("score 0", results.references.zero), ("score 1", results.references.one)):
            shown.append({"variant": name, **{e: returns(float(of_task[e])) for e in results.environments}})
    caption = (
        f"Mean return of a run's last {SCORE_EPISODES} episodes: mean ± sample standard deviation over runs "
        f"(undiscounted reward; {how_many(results)} a cell). † some runs finished fewer episodes or diverged, and "
        "count what they had; in brackets the mean with a diverged run as its task's worst, which is what is "
        "normalised."
        + f" ‡ the episodes of some scores span more than {LONG:.0%} of their run." * bool(early)
        + " Last rows: the returns that become 0 and 1." * bool(results.references)
    )
    return Table("raw", "Raw scores by task", caption, frame(shown), frame(rows))


def spread(runs: Array) -> str:
    return returns(runs.mean()) + (f" ± {returns(deviation(runs))}" if runs.size > 1 else "")


def deviation(runs: Array) -> float:
    return float(runs.std(ddof=1)) if runs.size > 1 else float("nan")


def how_many(results: Results, what: str = "run") -> str:
    """'3 runs', or '3 to 10 runs' where cells differ."""
    sizes = {runs.size for variant in results.trained for runs in results.raw.get(variant, {}).values()}
    low, high = min(sizes, default=0), max(sizes, default=0)
    return many(low, what) if low == high else f"{low} to {high} {what}s"


def aggregates(results: Results) -> Table:
    """Other ways to average, so that no conclusion hangs on the choice of one."""
    rows = []
    for variant in results.complete:
        cells = results.cells(variant)
        rows.append(
            {
                "variant": variant,
                "mean": float(statistics.mean(cells)),
                "median": float(statistics.median(cells)),
                "IQM": float(statistics.interquartile_mean(cells)),
                "optimality gap": float(statistics.optimality_gap(cells)),
                "area under curve": float(np.mean([known(runs) for runs in results.heights[variant].values()])),
            }
        )
    values = frame(rows)
    uneven = len({runs.size for variant in results.complete for runs in results.cells(variant)}) > 1
    shown = values.map(lambda cell: cell if isinstance(cell, str) else number(cell))
    caption = (
        f"Of normalised scores ({scale(results)}). Median: over tasks, of means over runs. IQM: mean of the middle "
        f"half of all runs{', in which each task weighs alike' * uneven}. Optimality gap: mean shortfall below 1. Area "
        "under curve: mean height of the learning curve"
        + (", up to the shortest budget of a task; – where it is too short for two points." if results.unequal else ".")
    )
    return Table("aggregates", "Other averages", caption, shown, values)


def known(runs: Array) -> float:
    """Mean of the runs that have a value; NaN if none has."""
    return float(np.nanmean(runs)) if np.isfinite(runs).any() else np.nan


def comparisons(results: Results) -> Table:
    """Every variant against one of them, with tests that allow for their number; of raw scores, task by task."""
    against = compared_with(results)
    others = [variant for variant in results.complete if variant != against]
    if results.normalised or len(results.environments) == 1:
        cells = {v: results.cells(v) if results.normalised else list(results.raw[v].values()) for v in results.complete}
        pairs = [({"variant": v}, cells[v], cells[against]) for v in others]
        unit = "normalised score" if results.normalised else "returns"
        title, over, averaged = "", f"over tasks, in {unit}", ", averaged over tasks"
    else:  # returns of several tasks have no common unit
        pairs = [
            ({"env": e, "variant": v}, [results.raw[v][e]], [results.raw[against][e]])
            for e in results.environments
            for v in others
        ]
        title, over, averaged = ", task by task", "on each task, in returns, for scores are not normalised", ""
    rows, shown = compared(results, pairs, against)
    caption = (
        f"Differences of means {over}. Holm: allows for {many(len(pairs), 'comparison')}; the interval does not. "
        f"P(better): that a run of the variant scores above a run of the other{averaged}."
    )
    return Table("comparisons", f"Against {against}{title}", caption, frame(shown), frame(rows))


def compared(
    results: Results, pairs: Sequence[tuple[dict[str, str], list[Array], list[Array]]], against: str
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Rows of comparisons, and as they are shown: of each pair its names, a variant's runs by task, and the other's."""
    said = number if results.normalised else lambda value, _digits=2: returns(value)
    tests = [statistics.welch_test(one, other) for _, one, other in pairs]
    rows, shown = [], []
    for (names, one, other), test, holm in zip(
        pairs, tests, statistics.holm(np.array([test.p for test in tests])), strict=True
    ):
        low, high = statistics.difference_interval(test)
        shuffled = statistics.permutation_test(one, other, results.rng())
        better = float(statistics.probability_of_improvement(one, other))
        rows.append({**names, "against": against, "difference": float(test.difference), "low": low, "high": high,
                     "p": float(test.p), "p_holm": holm, "p_permutation": shuffled,
                     "probability_of_improvement": better})  # fmt: skip
        shown.append({**{{"env": "task"}.get(name, name): value for name, value in names.items()},
                      f"difference to {against}": said(float(test.difference)),
                      f"{LEVEL_NAME} interval": f"[{said(low)}, {said(high)}]", "p (Welch, Holm)": chance(holm),
                      "p (permutation)": chance(shuffled), "P(better)": number(better)})  # fmt: skip
    return rows, shown


def raw_intervals(results: Results) -> Table:
    """Means of raw scores with their intervals, where nothing else shows any."""
    rows, shown = [], []
    for v in results.trained:
        line = {"variant": v}
        for e in results.environments:
            runs = results.raw.get(v, {}).get(e, np.empty(0))
            low, high = statistics.interval([runs], results.rng())[:2] if runs.size > 1 else (np.nan, np.nan)
            mean = float(runs.mean()) if runs.size else np.nan
            rows.append({"variant": v, "env": e, "runs": runs.size, "mean": mean, "low": low, "high": high})
            line[e] = returns(mean) + f" [{returns(low)}, {returns(high)}]" * (runs.size > 1)
        shown.append(line)
    caption = (
        f"Mean return over runs and its {LEVEL_NAME} interval (Student's t, from {FEW} runs a stratified bootstrap). A "
        "diverged run counts as its task's worst."
    )
    return Table("raw_intervals", "Raw scores and their intervals", caption, frame(shown), frame(rows))


def compared_with(results: Results) -> str:
    """The reader's choice, else the paper's own where it is there, else the first variant."""
    if chosen := results.options.reference:
        if chosen not in results.complete:
            raise RecordError(f"--reference {chosen} has no runs on every task; take {', '.join(results.complete)}")
        return chosen
    return published.WINNER if published.WINNER in results.complete else results.complete[0]


def differences(results: Results) -> Table:
    """Where the runs depart from what the paper prints, and what they chose where it is silent."""
    rows = [row for key, said in paper_settings().items() for row in departures(results, key, said)]
    rows += [
        {"setting": "task", "paper": "-v1", "here": f"-{version}", "kind": "printed otherwise", "source": "section 6.1"}
        for version in sorted({environment.rpartition("-")[2] for environment in results.environments})
        if version.startswith("v") and version != "v1"
    ]
    values = frame(rows) if rows else pd.DataFrame(columns=["setting", "paper", "here", "kind", "source"])
    values = values.sort_values("kind", kind="stable").reset_index(drop=True)
    caption = (
        "From the runs' own settings. Printed otherwise: contradicts the paper. Silent: the paper does not say; its "
        "column has the neutral choice, or a dash where it says what it chose for PPO alone."
    )
    return Table("differences", "Known differences from the paper", caption, values.copy(), values)


@cache
def paper_settings() -> dict[str, dict[str, str]]:
    """What the paper prints, or the neutral choice where it is silent, by key of a run's settings."""
    return published.settings().to_dict("index")


def departures(results: Results, key: str, said: Mapping[str, str]) -> list[dict[str, str]]:
    """Rows for a setting that some variants have otherwise; none if all agree with the paper. What it prints of the
    implementation it prints for PPO's objectives; of those that it compares them with, it says nothing."""
    found: dict[str, list[str]] = {}
    for variant in results.trained:
        if (value := at(results.config(variant), key)) is not None:
            found.setdefault(value, []).append(variant)

    def row(of: Sequence[str], paper: str, kind: str, source: str) -> list[dict[str, str]]:
        other = {value: [v for v in names if v in of] for value, names in found.items() if value != said["value"]}
        here = [f"{v} ({', '.join(names)})" if len(found) > 1 else v for v, names in other.items() if names]
        return [{"setting": key, "paper": paper, "here": "; ".join(here), "kind": kind, "source": source}][: len(here)]

    if said["printed"] == "no":
        return row(results.trained, said["value"], "silent", said["source"])
    objectives = {variant: at(results.config(variant), "algo.objective") for variant in results.trained}
    of_all = not key.startswith("profile.")
    ppo = [v for v, objective in objectives.items() if of_all or objective in published.OBJECTIVES.values()]
    others = [variant for variant in results.trained if variant not in ppo]
    return [
        *row(ppo, said["value"], "printed otherwise", said["source"]),
        *row(others, "–", "silent", f"for PPO: {said['source']}"),
    ]


def at(config: Mapping[str, Any], key: str) -> str | None:
    """A setting's text; None if the run is not of ours and does not tell."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value if isinstance(value, str) else json.dumps(value)


def list_of_runs(results: Results) -> Table:
    """Every run with its id and how it ended."""
    columns = ["run", "variant", "env", "profile", "seed", "status", "env_steps", "episodes", "score"]
    order = {variant: number for number, variant in enumerate(results.variants)}
    found = pd.concat([results.runs, results.faulty]).sort_values(
        ["env", "variant", "seed"], key=lambda c: c.map(order) if c.name == "variant" else c
    )
    values = found[[*columns, "score_episodes", "measure", "seconds", "commit", "host", "cpu", "gpu"]]
    shown = found[columns].assign(score=found["score"].map(returns))
    shown = shown.map(lambda cell: f"{cell:,}" if isinstance(cell, int) else str(cell))
    caption = "The folder of a run ends with its run id, the part of “run” before the dash; the code id is the rest."
    return Table("runs", "Runs", caption, shown, values)


TABLES: dict[str, tuple[Callable[[Results], Table], Callable[[Results], bool]]] = {
    "table1": (table1, lambda results: bool(results.paper_rows)),
    "readings": (readings, lambda results: bool(results.paper_rows)),
    "normalised": (normalised_scores, lambda results: bool(results.normalised)),
    "raw": (raw_scores, lambda results: True),
    "raw_intervals": (raw_intervals, lambda results: not results.normalised and bool(results.trained)),
    "comparisons": (
        comparisons,
        lambda results: len(results.complete) > 1 and results.seeds > 1,
    ),
    "aggregates": (aggregates, lambda results: bool(results.normalised)),
    "published": (published_scores, lambda results: not others_scores(results).empty),
    "differences": (differences, lambda results: results.ours),
    "runs": (list_of_runs, lambda results: True),
}
"""By name: how it is made, and whether a dataset permits it."""


def made(results: Results) -> Iterator[Table]:
    """The tables that the dataset permits, of those that its study asks for."""
    wanted: Sequence[str] = results.dataset.note.get("study", {}).get("tables") or list(TABLES)
    if unknown := [name for name in wanted if name not in TABLES]:
        raise RecordError(f"the study asks for table {unknown[0]}; there are {', '.join(TABLES)}")
    for name, (make, permitted) in TABLES.items():
        if name in wanted and permitted(results):
            yield make(results)
