"""Is this change of the algorithm as good as the stored baseline? python -m analysis.regress --candidate STUDY

    study=regression, trained ──▶ mechanism: does it do the same?   ──▶ one verdict, a Markdown summary, an exit code
    analysis/baselines/NAME   ──▶ return:    does it earn as much?

Exit codes: 0 PASS, 1 FAIL, 3 CHANGED (it earns as much, and does something else), 4 INCONCLUSIVE (more seeds decide),
2 a mistake in what was asked. The exact trace, `experiments.trace`, is the third gate.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from scipy import stats

from analysis import gates, scores
from analysis.baseline import NUMERICS, Baseline, differences, read_baseline, versions_of
from analysis.collect import collect
from analysis.curves import areas, learning_curves
from analysis.dataset import Dataset, load
from analysis.from_records import place_of
from analysis.gates import Return
from analysis.records import RecordError
from analysis.scores import UNTRAINED
from analysis.statistics import Array
from analysis.tables import number, span

EXIT = {"PASS": 0, "FAIL": 1, "CHANGED": 3, "INCONCLUSIVE": 4}
MARGIN = 0.10
VARIANT = "clip_0.2"


@dataclass(frozen=True)
class Judgement:
    """All that was found; `verdict` is the worst of it."""

    verdict: str
    reasons: list[str]
    overall: Return
    by_task: dict[str, Return]
    areas: dict[str, Return]
    mechanism: pd.DataFrame
    look: int
    seeds: int
    seconds: float  # per env step, as a ratio to the baseline's


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


def by_task(runs: pd.DataFrame, column: str = "score") -> dict[str, Array]:
    return {str(env): cell[column].to_numpy(dtype=float) for env, cell in runs.groupby("env")}


def crashed(runs: pd.DataFrame, baseline: pd.DataFrame) -> str:
    """Why runs that diverged fail the candidate; empty if they do not."""
    bad, good = (int((frame["status"] == "diverged").sum()) for frame in (runs, baseline))
    if bad == 0:
        return ""
    table = [[bad, len(runs) - bad], [good, len(baseline) - good]]
    if good and stats.fisher_exact(table, alternative="greater").pvalue >= gates.ALPHA:
        return ""
    return f"{bad} of {len(runs)} runs diverged, {good} of {len(baseline)} of the baseline's"


def area_scores(dataset: Dataset, runs: pd.DataFrame) -> dict[str, Array]:
    """Areas under the learning curves by task, in returns."""
    return {env: areas(curves, VARIANT) for env, curves in learning_curves(dataset, runs).items()}


def quantities(dataset: Dataset, runs: pd.DataFrame) -> pd.DataFrame:
    found = dataset.read("iterations")
    found["run"] = found["run"].astype(str)
    return gates.by_stretch(found.merge(runs[["run", "env"]], on="run"))


def judge(candidate: Dataset, baseline: Baseline, margin: float = MARGIN) -> Judgement:
    """Both gates. The candidate's runs must be comparable: see `analysis.baseline.differences`."""
    theirs = learning_runs(baseline.dataset)
    runs, look = looked_at(learning_runs(candidate), int(baseline.about["seeds_per_look"]))
    zero = {task: float(values.mean()) for task, values in by_task(baseline.runs.query("variant == 'random'")).items()}
    ours_raw, theirs_raw = (scores.raw_scores(frame)[VARIANT] for frame in (runs, theirs))
    overall = gates.return_gate(ours_raw, theirs_raw, zero, margin)
    single = {
        task: gates.return_gate({task: ours_raw[task]}, {task: theirs_raw[task]}, zero, margin) for task in theirs_raw
    }
    heights = [area_scores(candidate, runs), area_scores(baseline.dataset, theirs)]
    under = {task: gates.return_gate({task: heights[0][task]}, {task: heights[1][task]}, zero, margin)
             for task in theirs_raw}  # fmt: skip
    mechanism = gates.mechanism_gate(quantities(candidate, runs), quantities(baseline.dataset, theirs))
    changed = mechanism[mechanism["changed"]]
    reasons = [reason] if (reason := crashed(runs, theirs)) else []
    verdict = "FAIL" if reasons else overall.verdict
    if overall.verdict == "FAIL":
        reasons.append(f"the score is lower by {number(-overall.difference)} of the baseline's span")
    if not changed.empty:
        worst = changed.sort_values("p")["quantity"].drop_duplicates()
        reasons.append(f"it does not do the same: {', '.join(worst)}")
        verdict = verdict if verdict == "FAIL" else "CHANGED"
    costs = [float(frame["seconds"].sum() / frame["env_steps"].sum()) for frame in (runs, theirs)]
    return Judgement(verdict, reasons, overall, single, under, mechanism, look, runs["seed"].nunique(),
                     costs[0] / costs[1])  # fmt: skip


def more_seeds(study: str, per_look: int) -> str:
    return (
        f"python -m experiments.study study=regression name={study} num_seeds={gates.LOOKS * per_look} extend=true "
        f"&& python -m analysis.regress --candidate {study}"
    )


def summary(found: Judgement, study: str, baseline: Baseline, margin: float, notes: Sequence[str]) -> str:
    """Markdown, fit for a pull request."""
    lines = [f"## Regression gate: {found.verdict}", ""]
    lines += [f"- {reason}" for reason in found.reasons]
    final = "the last" if found.look == gates.LOOKS else f"look {found.look} of {gates.LOOKS}"
    lines += [
        f"- candidate `{study}`, {found.seeds} seeds ({final}), against baseline `{baseline.name}`, "
        f"{learning_runs(baseline.dataset)['seed'].nunique()} seeds, code {', '.join(baseline.about['code_ids'])}",
        f"- time per env step: {number(found.seconds)} of the baseline's, and of its machine's: it decides nothing",
        *(f"- {note}" for note in notes),
        "",
        f"Return: candidate − baseline as a share of the way from random to baseline; margin {margin:g}. The first row "
        "decides.",
        "",
        "| | difference | interval | alone it would be |",
        "|:--|--:|--:|:--|",
        row("mean over tasks", found.overall),
        *(row(f"score on {task}", seen) for task, seen in found.by_task.items()),
        *(row(f"area under the curve on {task}", seen) for task, seen in found.areas.items()),
        "",
    ]
    changed = found.mechanism[found.mechanism["changed"]].sort_values("p").head(12)
    tests = len(found.mechanism)
    lines.append(
        f"Mechanism: {int(found.mechanism['changed'].sum())} of {tests} tests of {len(gates.QUANTITIES)} quantities "
        f"changed (Mann–Whitney, Holm, {gates.MECHANISM_ALPHA:g} in all)."
    )
    if not changed.empty:
        lines += ["", "| task | up to iteration | quantity | baseline | candidate | P(above) | p (Holm) |",
                  "|:--|--:|:--|--:|--:|--:|--:|"]  # fmt: skip
        lines += [
            f"| {t.env} | {t.stretch} | {t.quantity} | {t.baseline:.4g} | {t.candidate:.4g} | {t.above:.2f} | "
            f"{t.p_holm:.2g} |"
            for t in changed.itertuples()
        ]
    if found.verdict == "INCONCLUSIVE":
        lines += ["", "More seeds decide; this look was the last one." if found.look == gates.LOOKS else
                  f"More seeds decide: `{more_seeds(study, int(baseline.about['seeds_per_look']))}`"]  # fmt: skip
    return "\n".join(lines) + "\n"


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


def run(study: str, name: str, records: Path, margin: float, folder: Path | None = None) -> tuple[str, str]:
    """The verdict and the summary of a study in the records."""
    baseline = read_baseline(name) if folder is None else read_baseline(name, folder)
    if crashes := failed_runs(study, records):
        return "FAIL", f"## Regression gate: FAIL\n\n- {len(crashes)} runs crashed: {', '.join(crashes[:8])}\n"
    with TemporaryDirectory() as beside:
        collect([study], records, Path(beside, "candidate"), ())
        candidate = load(Path(beside, "candidate"))
        versions = versions_of(study, records)
        if odd := differences(candidate.runs, versions, baseline):
            raise RecordError(f"{study} cannot be judged by baseline {name}: {'; '.join(odd)}")
        found = judge(candidate, baseline, margin)
    return found.verdict, summary(found, study, baseline, margin, notes_of(versions, baseline))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.regress", description="A study against a baseline.")
    parser.add_argument("--candidate", required=True, metavar="STUDY", help="a complete study in the records")
    parser.add_argument("--baseline", default="regression", metavar="NAME", help="a folder in analysis/baselines")
    parser.add_argument("--records", type=Path, default=Path("records"), help="where the study is")
    parser.add_argument("--margin", type=float, default=MARGIN, help="share of the baseline's span that may be lost")
    parser.add_argument("--out", type=Path, help="file for the Markdown summary")
    options = parser.parse_args(arguments)
    try:
        if not 0 < options.margin < 1:
            raise RecordError("--margin is a share of the baseline's span, between 0 and 1")
        verdict, text = run(options.candidate, options.baseline, options.records, options.margin)
        if options.out:
            options.out.write_text(text)
    except (RecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return EXIT[verdict]


if __name__ == "__main__":
    sys.exit(main())
