"""Is this change of the algorithm as good as the stored baseline? python -m analysis.regress --candidate STUDY

    study=regression, trained ──▶ mechanism: does it do the same?   ──▶ one verdict, a Markdown summary, an exit code
    analysis/baselines/NAME   ──▶ return:    does it earn as much?

Exit codes: 0 PASS, 1 FAIL, 3 CHANGED (it earns as much, and does something else), 4 INCONCLUSIVE (more seeds decide),
2 a mistake in what was asked. The exact trace, `experiments.trace`, is the third gate.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from analysis import gates
from analysis.baseline import FOLDER, NUMERICS, Baseline, differences, read_baseline, refuse_faulty, versions_of
from analysis.collect import collect
from analysis.curves import Curves, areas, learning_curves
from analysis.dataset import Dataset, load
from analysis.figures import style
from analysis.figures.curves import overlaid
from analysis.gates import MARGIN, VARIANT, Decision, Measured, Return
from analysis.records import RecordError
from analysis.scores import UNTRAINED
from analysis.sources.records import place_of
from analysis.statistics import Array
from analysis.tables import number, span
from experiments.commands import command, typed

EXIT = {"PASS": 0, "FAIL": 1, "CHANGED": 3, "INCONCLUSIVE": 4}


@dataclass(frozen=True)
class Judgement:
    """The decision, and what is shown beside it and decides nothing."""

    decision: Decision
    by_task: dict[str, Return]
    areas: dict[str, Return]
    curves: tuple[dict[str, Curves], dict[str, Curves]]  # the candidate's and the baseline's, by task
    look: int
    seeds: int
    seconds: float  # per env step, as a ratio to the baseline's
    memory: float  # largest pack's peak, as a ratio to the baseline's


def learning_runs(dataset: Dataset) -> pd.DataFrame:
    return dataset.runs[~dataset.runs["variant"].isin(UNTRAINED)]


def looked_at(runs: pd.DataFrame, per_look: int) -> tuple[pd.DataFrame, int]:
    """The runs of the first look or, where there are enough, of both. Other numbers of seeds give no further looks, so
    that nobody can look until it fits."""
    seeds = sorted(runs["seed"].unique())
    look = min(gates.LOOKS, len(seeds) // per_look)
    if look == 0:
        raise RecordError(f"the candidate has {len(seeds)} seeds, and the first look takes {per_look}")
    return runs[runs["seed"].isin(seeds[: look * per_look])], look


def measured(dataset: Dataset, runs: pd.DataFrame) -> Measured:
    """What the gates read of these runs of a dataset."""
    return Measured(runs, quantities_of(dataset.read("iterations"), runs))


def quantities_of(iterations: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The quantities of the mechanism gate, as `gates.by_stretch` gives them, of these runs of a dataset."""
    iterations = iterations.astype({"run": str}).merge(runs[["run", "env"]], on="run")
    last = int(runs["budget"].max() // iterations["env_steps"].min())  # by the budget, for all runs may have diverged
    return gates.by_stretch(iterations, last)


def random_scores(runs: pd.DataFrame) -> dict[str, float]:
    """The random policy's score by task."""
    found = runs[runs["variant"] == "random"].groupby("env")["score"].mean()
    return {str(env): float(score) for env, score in found.items()}


def task_by_task(
    ours: Mapping[str, Array], theirs: Mapping[str, Array], zero: Mapping[str, float], margin: float
) -> dict[str, Return]:
    """The return gate on each task alone, of what is finite; without a task where fewer than two runs are left."""
    found = {}
    for task in theirs:
        x, y = (runs[np.isfinite(runs)] for runs in (ours.get(task, np.empty(0)), theirs[task]))
        if min(x.size, y.size) > 1:
            found[task] = gates.return_gate({task: x}, {task: y}, zero, margin)
    return found


def judge(candidate: Dataset, baseline: Baseline, margin: float = MARGIN) -> Judgement:
    """Both gates, and more. The candidate's runs must be comparable: see `analysis.baseline.differences`."""
    refuse_faulty(candidate.runs)
    runs, look = looked_at(learning_runs(candidate), int(baseline.about["seeds_per_look"]))
    theirs = learning_runs(baseline.dataset)
    zero = random_scores(baseline.runs)
    sides = measured(candidate, runs), measured(baseline.dataset, theirs)
    curves = learning_curves(candidate, runs), learning_curves(baseline.dataset, theirs)
    heights = [{env: areas(found, VARIANT) for env, found in side.items()} for side in curves]
    seconds = [float(frame["seconds"].sum() / frame["env_steps"].sum()) for frame in (runs, theirs)]
    return Judgement(
        gates.decide(*sides, zero, margin),
        task_by_task(sides[0].scores, sides[1].scores, zero, margin),
        task_by_task(heights[0], heights[1], zero, margin),
        curves,
        look,
        int(runs["seed"].nunique()),
        seconds[0] / seconds[1],
        float(runs["peak_mb"].max() / theirs["peak_mb"].max()),
    )


def more_seeds(study: str, candidate: Dataset, records: Path, per_look: int) -> str:
    """The command that trains what the second look takes, and looks: what was said of the study, with more seeds."""
    at = [] if records == Path("records") else ["--records", records]
    grown = with_seeds(study, candidate, gates.LOOKS * per_look)
    return f"{grown} && {typed('analysis.regress', '--candidate', study, *at)}"


def with_seeds(study: str, dataset: Dataset, seeds: int) -> str:
    """The command that trains so many seeds of a study, whose dataset says how it was last trained."""
    said = [
        o for o in dataset.note["study"]["overrides"] if not o.startswith(("name=", "num_seeds=", "seeds=", "extend="))
    ]
    return typed("experiments.study", *said, f"name={study}", f"num_seeds={seeds}", "extend=true")


def summary(found: Judgement, study: str, baseline: Baseline, margin: float, notes: Sequence[str], more: str) -> str:
    """Markdown, fit for a pull request; `more` is the command that adds seeds."""
    decision = found.decision
    final = "the last" if found.look == gates.LOOKS else f"look {found.look} of {gates.LOOKS}"
    lines = [
        f"## Regression gate: {decision.verdict}",
        "",
        *(f"- {reason}" for reason in decision.reasons),
        f"- candidate `{study}`, {found.seeds} seeds ({final}), against baseline `{baseline.name}`, "
        f"{learning_runs(baseline.dataset)['seed'].nunique()} seeds, code {', '.join(baseline.about['code_ids'])}",
        f"- time per env step {number(found.seconds)} and memory {number(found.memory)} of the baseline's, which had "
        "its own machine and packs: they decide nothing",
        *(f"- {note}" for note in notes),
        "",
        f"Return: candidate − baseline as a share of the way from random to baseline; margin {margin:g}. The first row "
        "decides.",
        "",
        "| | difference | interval | alone it would be |",
        "|:--|--:|--:|:--|",
        row("mean over tasks", decision.overall),
        *(row(f"score on {task}", seen) for task, seen in found.by_task.items()),
        *(row(f"area under the curve on {task}", seen) for task, seen in found.areas.items()),
        "",
        f"Mechanism: {len(decision.changed)} of {len(decision.mechanism)} tests of {len(gates.QUANTITIES)} quantities "
        f"changed (Mann–Whitney, Holm, {gates.MECHANISM_ALPHA:g} in all at this look).",
    ]
    if not decision.changed.empty:
        lines += ["", "| task | up to iteration | quantity | baseline | candidate | P(above) | p (Holm) |",
                  "|:--|--:|:--|--:|--:|--:|--:|"]  # fmt: skip
        lines += [
            f"| {t.env} | {t.stretch} | {t.quantity} | {t.baseline:.4g} | {t.candidate:.4g} | {t.above:.2f} | "
            f"{t.p_holm:.2g} |"
            for t in decision.changed.head(12).itertuples()
        ]
    if decision.verdict == "INCONCLUSIVE":
        lines += ["", "More seeds would decide, but this look was the last one." if found.look == gates.LOOKS else
                  f"More seeds decide: `{more}`"]  # fmt: skip
    return "\n".join([*lines, "", "![learning curves](curves.png)"]) + "\n"


def row(what: str, seen: Return) -> str:
    return f"| {what} | {number(seen.difference)} | {span(seen.low, seen.high)} | {seen.verdict} |"


def failed_runs(study: str, records: Path) -> list[str]:
    """Runs of the study that crashed whenever they were tried."""
    return [folder.name for folder in place_of(study, records).folders if (folder / "failed.json").exists()]


def notes_of(versions: dict[str, str], baseline: Baseline) -> list[str]:
    """Versions that may change numbers and forbid nothing."""
    stored = baseline.about["versions"]
    return [f"{name} {versions[name]}, the baseline's was {stored[name]}" for name in NUMERICS
            if versions[name] != stored[name]]  # fmt: skip


def run(study: str, baseline: Baseline, records: Path, margin: float, out: Path) -> tuple[str, str]:
    """The verdict and the summary of a study in the records; the summary and its picture are written to `out`."""
    if crashes := failed_runs(study, records):
        verdict = "FAIL"
        text = f"## Regression gate: FAIL\n\n- runs that crashed: {len(crashes)}, {', '.join(crashes[:8])}\n"
    else:
        with TemporaryDirectory() as beside:
            collect([study], records, Path(beside, "candidate"), ())
            candidate = load(Path(beside, "candidate"))
            versions = versions_of(study, records)
            if odd := differences(candidate.runs, versions, baseline):
                raise RecordError(f"{study} cannot be judged by baseline {baseline.name}: {'; '.join(odd)}")
            found = judge(candidate, baseline, margin)
        verdict = found.decision.verdict
        more = more_seeds(study, candidate, records, int(baseline.about["seeds_per_look"]))
        text = summary(found, study, baseline, margin, notes_of(versions, baseline), more)
        out.mkdir(parents=True, exist_ok=True)
        style.use()
        drawn = {name: (VARIANT, side) for name, side in zip(("candidate", "baseline"), found.curves, strict=True)}
        overlaid(drawn).savefig(out / "curves.png")
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.md").write_text(text)
    return verdict, text


@command(RecordError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.regress", description="A study against a baseline.")
    parser.add_argument("--candidate", required=True, metavar="STUDY", help="a complete study in the records")
    parser.add_argument("--baseline", default="regression", metavar="NAME", help="a folder in analysis/baselines")
    parser.add_argument("--records", type=Path, default=Path("records"), help="where the study is")
    parser.add_argument("--margin", type=float, default=MARGIN, help="share of the baseline's span that may be lost")
    parser.add_argument("--baselines", type=Path, default=FOLDER, help="where baselines are stored")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="of summary.md and curves.png (RECORDS/gates/STUDY)")
    options = parser.parse_args(arguments)
    out = options.out or options.records / "gates" / options.candidate
    if not 0 < options.margin < 1:
        raise RecordError("--margin is a share of the baseline's span, between 0 and 1")
    baseline = read_baseline(options.baseline, options.baselines)
    verdict, text = run(options.candidate, baseline, options.records, options.margin, out)
    print(text, f"\n{out}", sep="")
    return EXIT[verdict]


if __name__ == "__main__":
    sys.exit(main())
