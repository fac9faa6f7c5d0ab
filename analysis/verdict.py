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
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis import gates, scores
from analysis.baseline import FOLDER, flat, refuse_faulty
from analysis.collect import collect
from analysis.curves import Curves, areas, learning_curves
from analysis.dataset import Dataset, load
from analysis.figures import style
from analysis.figures.curves import overlaid
from analysis.gates import MARGIN
from analysis.records import RecordError
from analysis.regress import quantities_of, with_seeds
from analysis.report import title_of
from analysis.sources.datasets import is_dataset
from analysis.statistics import Array, difference_interval, probability_of_improvement, welch_test
from analysis.tables import number, span
from experiments.commands import command

EXIT = {"BETTER": 0, "SAME": 0, "WORSE": 1, "INCONCLUSIVE": 4}
ERROR = 0.05  # how often a verdict is wrong where nothing differs, over all looks
FIRST_LOOK = 10  # seeds; each doubling is one look more
FEWEST = 3  # seeds of a task and side
LENGTHS = 0.05  # share by which runs may differ in length: logs of other libraries end with an episode
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


def read(source: str, records: Path, folder: Path) -> Dataset:
    """A dataset, or what is collected of another source now, in `folder`."""
    if is_dataset(Path(source)):
        return load(Path(source))
    collect([source], records, folder, ())
    return load(folder)


def runs_of(source: str, variant: str, dataset: Dataset) -> pd.DataFrame:
    """The dataset's runs of the variant; RecordError names the variants that there are."""
    runs = dataset.runs[dataset.runs["variant"] == variant]
    if runs.empty:
        there = ", ".join(sorted(set(dataset.runs["variant"])))
        raise RecordError(f"{source} has no runs of {variant}; it has {there}")
    refuse_faulty(runs)
    return runs


def sides(found: Sequence[tuple[str, str, Dataset, pd.DataFrame]]) -> tuple[Side, Side]:
    """Candidate and reference on the tasks that both have; RecordError where they cannot be compared."""
    tasks = set.intersection(*(set(runs["env"]) for *_, runs in found))
    if not tasks:
        each = "; ".join(f"{source}: {', '.join(sorted(set(runs['env'])))}" for source, _, _, runs in found)
        raise RecordError(f"they have no task in common ({each}); a task's version is part of its name")
    kept = [(source, variant, dataset, runs[runs["env"].isin(tasks)]) for source, variant, dataset, runs in found]
    both = pd.concat([runs.assign(variant=str(place)) for place, (*_, runs) in enumerate(kept)])
    for task, runs in both.groupby("env"):
        shortest, longest = runs["budget"].min(), runs["budget"].max()
        if shortest < (1 - LENGTHS) * longest:
            raise RecordError(f"{task}: runs of {shortest:,} and of {longest:,} env steps; train both sides as long")
        if len(measures := sorted(runs["measure"].unique())) > 1:
            raise RecordError(f"{task}: scores are {' and '.join(measures)}; they must mean the same on both sides")
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
        Side(source, variant, dataset, runs, {task: raw[str(place)][task] for task in sorted(tasks)})
        for place, (source, variant, dataset, runs) in enumerate(kept)
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
    one, other = ({task: runs[np.isfinite(runs)] for task, runs in side.items()} for side in (x, y))
    shares = gates.shares(one, other, zero)
    seen = welch_test(*shares)
    low, high = difference_interval(seen, level)
    return Difference(float(seen.difference), low, high, float(probability_of_improvement(*shares)))


def settings_that_differ(one: Side, other: Side) -> list[str]:
    """Such as 'algo.epsilon 0.3, reference 0.2', of the settings that are not the same on both sides."""
    ours, theirs = settings_in(one.runs), settings_in(other.runs)
    pairs = {name: (ours.get(name, {"null"}), theirs.get(name, {"null"})) for name in sorted(ours | theirs)}
    return [
        f"{name} {' or '.join(sorted(mine))}, reference {' or '.join(sorted(its))}"
        for name, (mine, its) in pairs.items()
        if mine != its
    ]


def settings_in(runs: pd.DataFrame) -> dict[str, set[str]]:
    """Every setting but the seed, with the values that the runs have."""
    found: dict[str, set[str]] = {}
    for text in runs["config"].unique():
        for name, value in flat(json.loads(text or "{}")):
            if name != "seed":
                found.setdefault(name, set()).add(value)
    return found


@dataclass(frozen=True)
class Verdict:
    """What came out, and all that was looked at."""

    candidate: Side
    reference: Side
    margin: float
    seeds: int  # of the task and side with the fewest
    zero_from: str
    overall: Difference
    by_task: dict[str, Difference]
    areas: dict[str, Difference]
    mechanism: pd.DataFrame  # tests of `gates.mechanism_gate`; empty where a side has no diagnostics
    curves: tuple[dict[str, Curves], dict[str, Curves]]

    @property
    def word(self) -> str:
        return self.overall.verdict(self.margin)


def judge(candidate: Side, reference: Side, margin: float) -> Verdict:
    """Compare the scores; look at the curves and at what the algorithm does besides."""
    zero, zero_from = zeros(candidate, reference)
    seeds = min(runs.size for side in (candidate, reference) for runs in side.scores.values())
    level = level_of(seeds)
    one, other = candidate.scores, reference.scores
    curves = learning_curves(candidate.dataset, candidate.runs), learning_curves(reference.dataset, reference.runs)
    heights = [
        {task: areas(found, side.variant) for task, found in of_side.items()}
        for side, of_side in zip((candidate, reference), curves, strict=True)
    ]
    whole = [task for task in other if all(np.isfinite(side[task]).sum() >= FEWEST for side in heights)]
    return Verdict(
        candidate,
        reference,
        margin,
        seeds,
        zero_from,
        difference(one, other, zero, level),
        {task: difference({task: one[task]}, {task: other[task]}, zero, level) for task in other},
        {task: difference({task: heights[0][task]}, {task: heights[1][task]}, zero, level) for task in whole},
        mechanism(candidate, reference),
        curves,
    )


def mechanism(candidate: Side, reference: Side) -> pd.DataFrame:
    """Tests of what both sides do, stretch by stretch; none where a side left no diagnostics."""
    none, found = pd.DataFrame(columns=["changed"]), []
    for side in (candidate, reference):
        iterations = side.dataset.read("iterations")
        if not ({*gates.QUANTITIES} <= {*iterations.columns} and iterations["run"].isin(side.runs["run"]).any()):
            return none
        found.append(quantities_of(iterations, side.runs))
    ours, theirs = found
    alike = ours.index.droplevel("run").unique().equals(theirs.index.droplevel("run").unique())  # the same stretches
    return gates.mechanism_gate(ours, theirs) if alike else none


def summary(found: Verdict, records: Path) -> str:
    """Markdown, fit for a pull request."""
    candidate, reference, seen = found.candidate, found.reference, found.overall
    words = {
        "BETTER": f"it is better by {number(seen.difference)} of the reference's span",
        "WORSE": f"it is worse by {number(-seen.difference)} of the reference's span",
        "SAME": f"no difference was found, and one of {found.margin:g} of the reference's span is ruled out",
        "INCONCLUSIVE": f"the interval holds 0 and reaches beyond the margin, {found.margin:g}",
    }[found.word]
    differ = settings_that_differ(candidate, reference)
    lines = [
        f"## {found.word}: {candidate.name} against {reference.name}",
        "",
        f"- {words}: {number(seen.difference)} {span(seen.low, seen.high)}, at {level_of(found.seeds):.2%} for "
        f"{found.seeds} seeds or more per task",
        f"- a run of the candidate scores higher than one of the reference with probability {number(seen.above)}",
        f"- what differs: {'; '.join(differ) or 'no setting'}",
        f"- tasks: {tasks_by_budget(candidate)}; {left_out(candidate, reference)}0 is the random policy of "
        f"{found.zero_from}",
        f"- diverged: {diverged(candidate)} of the candidate's runs, {diverged(reference)} of the reference's; "
        "such a run has its task's worst score",
        "",
        "Candidate − reference as a share of the way from random to the reference's mean. The first row decides.",
        "",
        "| | difference | interval | P(higher) | seeds | alone it would be |",
        "|:--|--:|--:|--:|--:|:--|",
        row("mean over tasks", seen, "", found.margin),
        *(
            row(f"score on {task}", each, f"{candidate.scores[task].size}, {reference.scores[task].size}", found.margin)
            for task, each in found.by_task.items()
        ),
        *(row(f"area under the curve on {task}", each, "", found.margin) for task, each in found.areas.items()),
        "",
    ]
    lines += otherwise(found.mechanism)
    if found.word == "INCONCLUSIVE":
        lines += [more_seeds(found, records), ""]
    return "\n".join([*lines, "![learning curves](curves.png)"]) + "\n"


def otherwise(mechanism: pd.DataFrame) -> list[str]:
    """Lines about what the candidate does otherwise; none where nothing was found."""
    tests = mechanism.dropna()  # of quantities that both sides have
    changed = tests[tests["changed"].astype(bool)].sort_values("p") if len(tests) else tests
    if changed.empty:
        return []
    head = "What it does otherwise, the clearest first (medians; Mann–Whitney, Holm; it decides nothing):"
    columns = ["| task | up to iteration | quantity | reference | candidate | P(above) |", "|:--|--:|:--|--:|--:|--:|"]
    rows = [
        f"| {t.env} | {t.stretch} | {t.quantity} | {t.baseline:.4g} | {t.candidate:.4g} | {t.above:.2f} |"
        for t in changed.head(SHOWN).itertuples()
    ]
    return [head, "", *columns, *rows, ""]


def row(what: str, seen: Difference, seeds: str, margin: float) -> str:
    interval = span(seen.low, seen.high)
    return f"| {what} | {number(seen.difference)} | {interval} | {seen.above:.2f} | {seeds} | {seen.verdict(margin)} |"


def tasks_by_budget(side: Side) -> str:
    """'Hopper-v4, Reacher-v4 (1,000,000 env steps)', a group for each budget."""
    longest = side.runs.groupby("env")["budget"].max()
    groups = [(budget, sorted(longest.index[longest == budget])) for budget in sorted(set(longest))]
    return ", ".join(f"{', '.join(tasks)} ({budget:,} env steps)" for budget, tasks in groups)


def diverged(side: Side) -> str:
    return f"{int((side.runs['status'] == 'diverged').sum())} of {len(side.runs)}"


def left_out(candidate: Side, reference: Side) -> str:
    """The tasks that only one side has, in words."""
    parts = []
    for side in (candidate, reference):
        runs = side.dataset.runs
        if alone := sorted(set(runs.loc[runs["variant"] == side.variant, "env"]) - set(reference.scores)):
            parts.append(f"only {side.name} has {', '.join(alone)}; ")
    return "".join(parts)


def more_seeds(found: Verdict, records: Path) -> str:
    """What to type for twice as many seeds, or what is left to do where no study says how the runs were made."""
    wanted = max(FIRST_LOOK, 2 * found.seeds)
    commands = []
    for source in dict.fromkeys(side.source for side in (found.candidate, found.reference)):
        if not (records / "studies" / source / "study.json").exists():
            return f"More seeds decide: {wanted} or more per task on both sides, then this command again."
        side = found.candidate if source == found.candidate.source else found.reference
        commands.append(with_seeds(source, side.dataset, wanted))
    return f"More seeds decide: `{' && '.join(commands)}`, then this command again."


@command(RecordError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.verdict", description="One variant against another.")
    parser.add_argument("source", help="where the candidate's runs are: a study, records, a dataset, sb3:FOLDER, …")
    parser.add_argument("--candidate", required=True, metavar="VARIANT")
    parser.add_argument("--reference", required=True, metavar="VARIANT")
    parser.add_argument("--against", metavar="SOURCE", help="where the reference's runs are, if elsewhere")
    parser.add_argument("--margin", type=float, default=MARGIN, help="share of the span that counts as nothing (0.1)")
    parser.add_argument("--records", type=Path, default=Path("records"), help="where studies are looked up")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="of summary.md and curves.png (RECORDS/verdicts/…)")
    options = parser.parse_args(arguments)
    if not 0 < options.margin < 1:
        raise RecordError("--margin is a share of the reference's span, between 0 and 1")
    asked = (options.source, options.candidate), (options.against or options.source, options.reference)
    if asked[0] == asked[1]:
        raise RecordError("candidate and reference are the same runs; name two variants, or two sources")
    with TemporaryDirectory() as beside:
        sources = dict.fromkeys(source for source, _ in asked)
        read_in = {name: read(name, options.records, Path(beside, str(n))) for n, name in enumerate(sources)}
        found = judge(*sides([(*each, read_in[each[0]], runs_of(*each, read_in[each[0]])) for each in asked]),
                      options.margin)  # fmt: skip
    text = summary(found, options.records)
    name = f"{title_of(options.source)}-{options.candidate}-{options.reference}".replace("/", "-")
    out = options.out or options.records / "verdicts" / name
    out.mkdir(parents=True, exist_ok=True)
    style.use()
    one, other = found.curves
    drawn = {"candidate": (found.candidate.variant, one), "reference": (found.reference.variant, other)}
    overlaid(drawn).savefig(out / "curves.png")
    (out / "summary.md").write_text(text)
    print(text, f"\n{out}", sep="")
    return EXIT[found.word]


if __name__ == "__main__":
    sys.exit(main())
