"""Table 1 in analysis/reports/README.md, from its study's dataset, complete or growing: what stands beside the paper's
scores, in pictures and words. The same dataset gives the same bytes."""

from dataclasses import replace

from matplotlib.figure import Figure

from analysis import findings, others
from analysis.dataset import Dataset
from analysis.figures import captions, curves, replication, style
from analysis.paper import published
from analysis.records import RecordError
from analysis.replicate import SEEDS
from analysis.report import missing, provenance, summary
from analysis.results import Results
from analysis.scores import SCALING, UNTRAINED
from analysis.tables import markdown

MEANING = (
    "Mind what is compared: a last tenth of training is not the last 100 episodes. What each number means, and of how "
    "many seeds, stands in the [report](table1/report.md)."
)


def comparable(dataset: Dataset) -> Dataset:
    """The runs of Table 1's settings and of the reference policies on those tasks where every setting that has begun
    is finished, and the policy that scores 0: only there do all rows have the same tasks. RecordError if there is no
    such task."""
    settings = set(dataset.runs["variant"]) & set(published.table1().index)
    runs = dataset.runs[dataset.runs["variant"].isin(settings.union(UNTRAINED))]
    needed = settings | {SCALING.random_from}
    whole = [task for task, cells in runs.groupby("env") if needed <= set(cells["variant"])]
    if not whole or len(settings) < 2:
        raise RecordError(
            f"{dataset.folder} has no task yet on which two settings of Table 1 or more, and the policy "
            f"{SCALING.random_from}, are finished"
        )
    return replace(dataset, runs=runs[runs["env"].isin(whole)])


def lacking(dataset: Dataset) -> list[str]:
    """What a growing dataset has to say on the face of its scores."""
    tasks, of = sorted(comparable(dataset).runs["env"].unique()), len(published.TASKS)
    averages = f"Scores are averages over {len(tasks)} of the paper's {of} tasks: {', '.join(tasks)}."
    return [*missing(dataset.note), *[averages] * (len(tasks) < of)]


def learning(dataset: Dataset) -> Results:
    """The best setting of each objective, by the paper's scores, and the reference policies, on the tasks where any of
    these settings is finished."""
    best = list(published.table1().groupby("setting", sort=False)["score"].idxmax())
    runs = dataset.runs[dataset.runs["variant"].isin([*best, *UNTRAINED])]
    return Results(replace(dataset, runs=runs[runs["env"].isin(runs.loc[runs["variant"].isin(best), "env"])]))


def scores_picture(dataset: Dataset) -> Figure:
    """Published scores, ours and re-runs, a row each."""
    figure = replication.replication(Results(comparable(dataset)))
    style.say_missing(figure, lacking(dataset))
    return figure


def curves_picture(dataset: Dataset) -> Figure:
    """Learning curves of the best setting of each objective, a panel per task."""
    figure = curves.curves(learning(dataset))
    style.say_missing(figure, missing(dataset.note))
    return figure


def fixed_beforehand(dataset: Dataset) -> str:
    """What the seeds say that were fixed before any run, 0 to 2 (conf/study/table1.yaml), where there are others too:
    seeds that are added once results are known could be added until one likes them. Empty if there are no others, or
    not these three of every cell."""
    first = dataset.runs["seed"] < SEEDS
    if first.all() or not first.any() or not (found := Results(replace(dataset, runs=dataset.runs[first]))).paper_rows:
        return ""
    said = findings.judged(found)
    return (
        f"With the {SEEDS} seeds that were fixed before any run alone: {said['inside']} of {said['rows']} inside, "
        f"{said['no_more']:.0%} of re-runs have no more; against it: {said['against']}."
    )


def section(dataset: Dataset) -> str:
    """The section of analysis/reports/README.md, Markdown."""
    results, everything = Results(comparable(dataset)), Results(dataset)
    theirs = [] if others.others_scores(everything).empty else [markdown(others.in_short(everything)), MEANING]
    parts = [
        "## Table 1",
        *(f"> **Partial.** {line}" for line in lacking(dataset)),
        "![The paper's Table 1: published scores, ours, and where re-runs would fall](../pictures/table1.png)",
        markdown(findings.table1(results)),
        "\n".join(f"- {line}" for line in filter(None, [*summary(results), fixed_beforehand(results.dataset)])),
        markdown(findings.readings(results)),
        "![Learning curves of the best setting of each objective](../pictures/curves.png)",
        f"*{captions.curves(learning(dataset))}*",
        *theirs,
        markdown(provenance(everything)),
        "`python -m analysis.pictures` prints this section and draws its pictures, from "
        "[analysis/baselines/table1](../baselines/table1) alone.",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"
