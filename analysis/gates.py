"""Is a changed algorithm as good as its baseline, and does it do the same? Two gates on two datasets' runs.

Return: the mean over tasks of the candidate's scores against the baseline's, as shares of the baseline's frozen way
from random to its own mean. FAIL, PASS or INCONCLUSIVE by an interval and a margin; at most two looks.
Mechanism: what the algorithm does over fixed stretches of iterations (KL, clip fraction, …), each quantity against the
baseline's distribution. CHANGED names the quantities.

Runs of different seeds are independent; equal seeds are treated as such too, which costs power and no trust.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis import scores
from analysis.records import RecordError
from analysis.statistics import Array, holm, welch_test

VARIANT = "clip_0.2"  # the one that is judged
MARGIN = 0.10  # share of the baseline's span that a candidate may lose
ALPHA = 0.05  # one-sided, of the return gate: a candidate that bad passes, or that good fails, so often at most
LOOKS = 2  # the error is split between them
MECHANISM_ALPHA = 0.02  # of the whole mechanism gate at one look: unchanged code is called CHANGED so often at most
QUANTITIES = ("kl", "clip_fraction", "entropy", "explained_variance", "update_norm", "std")
STRETCHES = (0.1, 0.25, 0.5, 1.0)  # shares of the iterations that end a stretch; the first iteration is one by itself


class Return(NamedTuple):
    """The return gate: candidate − baseline and the ends of its interval, as shares of the baseline's span."""

    difference: float
    low: float
    high: float
    verdict: str  # PASS | FAIL | INCONCLUSIVE


class Measured(NamedTuple):
    """What the gates read of learning runs."""

    runs: pd.DataFrame  # variant, env, seed, status, score: a row per run
    quantities: pd.DataFrame  # as `by_stretch` gives them

    @property
    def scores(self) -> dict[str, Array]:
        """By task, (runs,) each; a run that diverged counts as its task's worst, and a task has no entry if none of its
        runs has a score to be the worst."""
        return scores.raw_scores(self.runs).get(VARIANT, {})


class Decision(NamedTuple):
    """What both gates found; `verdict` is the worst of it. `overall` is NaN where a task has no score."""

    verdict: str  # PASS | FAIL | CHANGED | INCONCLUSIVE
    reasons: list[str]
    overall: Return
    mechanism: pd.DataFrame

    @property
    def changed(self) -> pd.DataFrame:
        """The tests that say so, the clearest first."""
        return self.mechanism[self.mechanism["changed"]].sort_values("p")


def decide(candidate: Measured, baseline: Measured, zero: Mapping[str, float], margin: float = MARGIN) -> Decision:
    """Both gates on one look's runs; `zero`: the random policy's score by task."""
    mechanism = mechanism_gate(candidate.quantities, baseline.quantities)
    reasons = [reason] if (reason := crashed(candidate.runs, baseline.runs)) else []
    if without := sorted(set(baseline.scores) - set(candidate.scores)):
        overall = Return(np.nan, np.nan, np.nan, "FAIL")
        reasons.append(f"no run has a finite score on {', '.join(without)}")
    else:
        overall = return_gate(candidate.scores, baseline.scores, zero, margin)
    verdict = "FAIL" if reasons else overall.verdict
    if overall.verdict == "FAIL" and not without:
        reasons.append(f"the score is lower by {-overall.difference:.3g} of the baseline's span")
    found = Decision(verdict, reasons, overall, mechanism)
    if found.changed.empty:
        return found
    reasons.append(f"it does not do the same: {', '.join(found.changed['quantity'].drop_duplicates())}")
    return found._replace(verdict="FAIL" if verdict == "FAIL" else "CHANGED")


def crashed(runs: pd.DataFrame, baseline: pd.DataFrame) -> str:
    """Why runs that diverged fail the candidate; empty if they do not."""
    bad, good = (int((frame["status"] == "diverged").sum()) for frame in (runs, baseline))
    if bad == 0:
        return ""
    table = [[bad, len(runs) - bad], [good, len(baseline) - good]]
    if good and stats.fisher_exact(table, alternative="greater").pvalue >= ALPHA:
        return ""
    return f"{bad} of {len(runs)} runs diverged, {good} of {len(baseline)} of the baseline's"


def return_gate(
    candidate: Mapping[str, Array],
    baseline: Mapping[str, Array],
    zero: Mapping[str, float],
    margin: float = MARGIN,
) -> Return:
    """Scores by task, (runs,) each, in returns; `zero` by task is the random policy's. The first look spends a half of
    the error, the second the other half; after that the verdict is final."""
    seen = welch_test(*shares(candidate, baseline, zero))
    reach = stats.t.ppf(1 - ALPHA / LOOKS, seen.dof) * seen.error
    low, high = float(seen.difference - reach), float(seen.difference + reach)
    verdict = "FAIL" if high < -margin else "PASS" if low > -margin else "INCONCLUSIVE"
    return Return(float(seen.difference), low, high, verdict)


def shares(
    candidate: Mapping[str, Array], baseline: Mapping[str, Array], zero: Mapping[str, float]
) -> tuple[list[Array], list[Array]]:
    """Both sides' scores, (runs,) per task of the baseline, as shares of its span: the way from `zero` to its mean.
    RecordError where there is no way."""
    spans = {task: float(runs.mean() - zero[task]) for task, runs in baseline.items()}
    if flat := [task for task, span in spans.items() if not span > 0]:
        raise RecordError(f"the baseline is no better than random on {', '.join(flat)}; it cannot judge anything")
    one, other = ([(side[task] - zero[task]) / spans[task] for task in baseline] for side in (candidate, baseline))
    return one, other


def stretches(iterations: int) -> list[int]:
    """The iterations that end each stretch: 1, 5, 12, 25 and 50 of 50."""
    return sorted({1, *(max(1, round(share * iterations)) for share in STRETCHES)})


def by_stretch(iterations: pd.DataFrame, last: int) -> pd.DataFrame:
    """Means of the quantities over each stretch: a row per env, run and stretch, which is named by its last iteration.
    `iterations` has a row per run and iteration, with env, run, iteration and the quantities; `last` is the last
    iteration of a whole run."""
    ends = np.array(stretches(last))
    stretch = ends[np.searchsorted(ends, iterations["iteration"])]
    return iterations.assign(stretch=stretch).groupby(["env", "stretch", "run"], observed=True)[list(QUANTITIES)].mean()


def mechanism_gate(candidate: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """Tests of every quantity in every stretch of every task, between two results of `by_stretch`. Mann–Whitney,
    two-sided, Holm over all tests: one row per test with both medians, the probability that a run of the candidate is
    above one of the baseline, p and whether it changed."""
    rows = []
    theirs = dict(list(baseline.groupby(["env", "stretch"])))
    for key, ours in candidate.groupby(["env", "stretch"]):
        for quantity in QUANTITIES:
            x, y = (frame[quantity].dropna().to_numpy() for frame in (ours, theirs[key]))
            if x.size and y.size:
                rows.append((*key, quantity, np.median(y), np.median(x), *mann_whitney(x, y)))
            elif x.size or y.size:
                rows.append((*key, quantity, np.nan, np.nan, np.nan, 0.0))  # it appeared, or is gone
    tests = pd.DataFrame(rows, columns=["env", "stretch", "quantity", "baseline", "candidate", "above", "p"])
    tests["p_holm"] = holm(tests["p"].to_numpy())
    tests["changed"] = tests["p_holm"] < MECHANISM_ALPHA
    return tests


def mann_whitney(x: Array, y: Array) -> tuple[float, float]:
    """P(a run of x above one of y), ties one half; two-sided p, 1 where all values are one."""
    if np.ptp(np.concatenate([x, y])) == 0:
        return 0.5, 1.0
    found = stats.mannwhitneyu(x, y, method="asymptotic")
    return float(found.statistic / (x.size * y.size)), float(found.pvalue)
