"""The power table from what was measured: python -m tests.planted.table [--write]

--write puts it between the two marks in README.md.
"""

import re
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from analysis import gates
from analysis.baseline import Baseline, read_baseline
from analysis.bless import SEEDS_PER_LOOK
from analysis.documents import replaced
from analysis.gates import MARGIN, VARIANT, Decision, Measured
from analysis.regress import learning_runs, measured, random_scores
from analysis.statistics import welch_test
from analysis.tables import number, span
from tests.planted.measure import HERE, UNCHANGED

SPLITS = 20  # of the pool into a baseline and candidates
BASELINE_SEEDS = 96
MARK = "<!-- python -m tests.planted.table --write -->\n"
HEAD = """\
| planted bug | exact trace | return: FAIL | mechanism: CHANGED | caught | score, share of span | clearest quantity |
|:--|:--|--:|--:|--:|--:|:--|"""


def side(rows: pd.DataFrame, seeds: Sequence[int]) -> Measured:
    """The runs of these seeds as the gates read them."""
    rows = rows[rows["seed"].isin(seeds)].assign(variant=VARIANT, run=rows["seed"])
    runs = rows.drop_duplicates(["env", "seed"])[["variant", "env", "seed", "status", "score"]]
    return Measured(runs, rows.set_index(["env", "stretch", "run"])[list(gates.QUANTITIES)])


def looks(rows: pd.DataFrame, seeds: Sequence[int], baseline: Measured, zero: dict[str, float]) -> Iterator[Decision]:
    """The final decision of each gate: its own seeds and, if they decide nothing, the next gate's as a second look."""
    parts = np.array_split(np.asarray(seeds), len(seeds) // SEEDS_PER_LOOK)
    for part, following in zip(parts, [*parts[1:], parts[0]], strict=True):
        found = gates.decide(side(rows, part), baseline, zero)
        if found.verdict == "INCONCLUSIVE":
            found = gates.decide(side(rows, [*part, *following]), baseline, zero)
        yield found


def share(candidate: Measured, baseline: Measured, zero: dict[str, float]) -> str:
    """The mean difference of scores over all seeds, with a 95 % interval."""
    spans = {task: runs.mean() - zero[task] for task, runs in baseline.scores.items()}
    shares = [[(side.scores[task] - zero[task]) / spans[task] for task in spans] for side in (candidate, baseline)]
    seen = welch_test(*shares)
    reach = stats.t.ppf(0.975, seen.dof) * seen.error
    return f"{number(seen.difference)} {span(seen.difference - reach, seen.difference + reach)}"


def clearest(found: Sequence[Decision]) -> str:
    """The quantity that most gates name first."""
    named = [decision.changed["quantity"].iloc[0] for decision in found if not decision.changed.empty]
    return str(pd.Series(named).mode().iloc[0]) if named else "–"


def first_difference(trace: str) -> str:
    """The quantity the exact trace names."""
    named = re.search(r"iteration (\d+): (\w+)", trace)
    return f"{named[2]}, iteration {named[1]}" if named else "the same"


def bug_row(name: str, rows: pd.DataFrame, baseline: Measured, zero: dict[str, float], trace: str) -> str:
    seeds = sorted(rows["seed"].unique())
    found = list(looks(rows, seeds, baseline, zero))
    lost = sum(f.overall.verdict == "FAIL" or bool(f.reasons and "diverged" in f.reasons[0]) for f in found)
    changed = sum(not f.changed.empty for f in found)
    caught = sum(f.verdict in ("FAIL", "CHANGED") for f in found)
    cells = [name.replace("_", " "), first_difference(trace), f"{lost} of {len(found)}", f"{changed} of {len(found)}",
             f"{caught} of {len(found)}", share(side(rows, seeds), baseline, zero), clearest(found)]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def rates(what: str, verdicts: Sequence[str], independent: int) -> str:
    """Shares of verdicts; the interval of the false alarms is that of as many gates as shared no seed."""
    wrong = sum(verdict in ("FAIL", "CHANGED") for verdict in verdicts) / len(verdicts)
    high = stats.binomtest(round(wrong * independent), independent).proportion_ci().high
    passed = sum(verdict == "PASS" for verdict in verdicts) / len(verdicts)
    return (
        f"- {what}: PASS {passed:.1%}, FAIL or CHANGED {wrong:.1%} of {len(verdicts)} gates (only {independent} of one "
        f"baseline share no seed, so at most {high:.0%} with 95 % confidence)"
    )


def bugs_table(runs: pd.DataFrame, said: pd.DataFrame, baseline: Baseline) -> str:
    """Markdown, a row per planted bug."""
    zero = random_scores(baseline.runs)
    shipped = measured(baseline.dataset, learning_runs(baseline.dataset))
    planted = said[said["bug"] != UNCHANGED].fillna("")
    rows = [bug_row(row.bug, runs[runs["bug"] == row.bug], shipped, zero, row.trace) for row in planted.itertuples()]
    seconds = planted["seconds"]
    took = (
        f"A gate ({SEEDS_PER_LOOK} seeds: study and verdict) took {seconds.median():.0f} s, {seconds.max():.0f} s at "
        f"most, on two cores that did other things too. Margin {MARGIN:g}."
    )
    return "\n".join([HEAD, *rows, "", took])


def unchanged_rates(runs: pd.DataFrame, baseline: Baseline) -> str:
    """How often unchanged code with fresh seeds is called anything but PASS: by the shipped baseline and by others."""
    zero = random_scores(baseline.runs)
    shipped = measured(baseline.dataset, learning_runs(baseline.dataset))
    unchanged = runs[runs["bug"] == UNCHANGED]
    verdicts = [found.verdict for found in looks(unchanged, sorted(unchanged["seed"].unique()), shipped, zero)]
    stored = shipped.quantities.reset_index().merge(shipped.runs[["run", "seed", "status", "score"]], on="run")
    pool = pd.concat([unchanged, stored.drop(columns="run")], ignore_index=True)
    many = list(split_verdicts(pool, zero, np.random.default_rng(0)))
    return "\n".join([
        f"Unchanged code with fresh seeds, from a pool of {pool['seed'].nunique()} seeds per task:",
        "",
        rates("against the shipped baseline", verdicts, len(verdicts)),
        rates(f"over {SPLITS} random baselines", many, len(verdicts)),
    ])  # fmt: skip


def split_verdicts(pool: pd.DataFrame, zero: dict[str, float], rng: np.random.Generator) -> Iterator[str]:
    """Verdicts on the rest of the pool, a gate's seeds at a time, against a baseline drawn without replacement."""
    for _ in range(SPLITS):
        seeds = rng.permutation(pool["seed"].unique())
        baseline, rest = side(pool, seeds[:BASELINE_SEEDS]), seeds[BASELINE_SEEDS:]
        whole = len(rest) // SEEDS_PER_LOOK * SEEDS_PER_LOOK
        yield from (found.verdict for found in looks(pool, rest[:whole], baseline, zero))


def stored() -> tuple[pd.DataFrame, pd.DataFrame, Baseline]:
    """What was measured, beside this file, and the shipped baseline."""
    return pd.read_parquet(HERE / "runs.parquet"), pd.read_csv(HERE / "gates.csv"), read_baseline("regression")


def main() -> None:
    runs, said, baseline = stored()
    text = f"{bugs_table(runs, said, baseline)}\n\n{unchanged_rates(runs, baseline)}\n"
    print(text, end="")
    if sys.argv[1:] == ["--write"]:
        path = HERE / "README.md"
        path.write_text(replaced(path.read_text(), MARK, text))


if __name__ == "__main__":
    main()
