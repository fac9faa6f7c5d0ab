"""What stands below each figure: what is shown, of how many runs, what bands and bars are, and in which unit."""

from analysis.curves import few
from analysis.figures.curves import averageable, banded_in
from analysis.figures.profiles import conclusions
from analysis.figures.style import groups
from analysis.findings import how_many as runs
from analysis.replicate import SEEDS
from analysis.results import Results
from analysis.scores import UNTRAINED
from analysis.statistics import FEW, LEVEL
from analysis.tables import many
from experiments.records.schema import SCORE_EPISODES


def curves(results: Results) -> str:
    measure = " and ".join(sorted(results.runs["measure"].unique()))
    single = [few(found) for found in results.curves.values()]
    banded = any(banded_in(groups(results.trained), alone) for alone in single)
    references = [name for name in UNTRAINED if name in results.raw]
    return said(
        f"Return of {measure} against env steps; lines are means over {runs(results)} per variant and task.",
        f"Thin lines are the runs{f', where they are fewer than {FEW}' * (not all(single))}." * any(single),
        f"Bands are {LEVEL:.0%} t intervals of the means." * (banded and several(results)),
        "A point is the mean of the episodes that ended in 1/100 of the budget, or in more of it where they are long; "
        "a mean ends where the first of its runs ends.",
        f"Grey lines are mean scores of the {' and the '.join(references)} policy." * bool(references),
        beyond("Curves"),
    )


def figure6(results: Results) -> str:
    return said(
        "Return of whole games against frames, 4 per env step; lines are means over "
        f"{runs(results)} per variant and game.",
        f"Bands are {LEVEL:.0%} t intervals of the means." * several(results),
        "A mean ends where the first of its runs ends. Dashed: the final score of PPO in the paper’s Table 6.",
        "Grey: the mean score of a policy that does not learn." * any(name in results.raw for name in UNTRAINED),
    )


def efficiency(results: Results) -> str:
    return said(
        f"{normalised(results)} averaged over {tasks(results)} against env steps; lines are means over {runs(results)} "
        "per variant and task.",
        f"Bands are {LEVEL:.0%} t intervals of the means." * (banded_in(groups(results.complete)) and several(results)),
        "Grey lines are the variants of the other panels." * (len(groups(results.complete)) > 1),
        "A mean ends where, on any task, the first of its runs ends.",
        beyond("Curves"),
        left_out(results),
    )


def profile(results: Results) -> str:
    return said(
        f"Share of runs with a normalised score above τ, averaged over {tasks(results)}, of {runs(results)} per "
        f"variant and task; further up and to the right is better. {normalised(results)}.",
        "Grey lines are the variants of the other panels." * (len(groups(results.complete)) > 1),
        "How far the lines depend on chance is not shown.",
        left_out(results),
    )


def intervals(results: Results) -> str:
    if not averageable(results):
        interval = f", and its interval ({method(results)})" * several(results)
        return said(
            f"Scores of {runs(results)} per variant and task, in returns (means of the last {SCORE_EPISODES} episodes)"
            f": every run and their mean{interval}.",
            beyond("Bars"),
            why_raw(results),
        )
    doubtful = [variant for variant, interval in results.intervals.items() if interval.heavy_tailed]
    return said(
        f"{normalised(results)}: mean over {tasks(results)} of {runs(results)} each"
        + f", and its interval ({method(results)})" * bool(results.intervals)
        + ".",
        "Small dots are runs, or means of tasks where runs are many.",
        f"Below: the score that the paper's Table 1 prints, and where {LEVEL:.0%} of re-runs of it with {SEEDS} seeds "
        "would lie, judged by our runs." * bool(results.paper_rows),
        beyond("Bars"),
        f"The interval of {', '.join(doubtful)} hinges on one run and may be too short." * bool(doubtful),
        left_out(results),
    )


def heatmap(results: Results) -> str:
    if not averageable(results):
        return said(
            f"Mean scores over {runs(results)} per variant and task, in returns. Each task has colours of its own, "
            "from its lowest mean to its highest; means far below have another.",
            why_raw(results),
        )
    return said(
        f"{normalised(results)}: means over {runs(results)} per variant and task. Cells clearly below 0 have a colour "
        "of their own."
    )


def multiverse(results: Results) -> str:
    return said(
        f"Mean score of each objective under each profile, in returns, over {runs(results)} per variant and task; "
        f"bars are intervals ({method(results)})." if several(results) else
        "Score of each objective under each profile, one run each.",
        beyond("Bars"),
        conclusions(results),
    )  # fmt: skip


def said(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def several(results: Results) -> bool:
    return any(scores.size > 1 for variant in results.trained for scores in results.raw.get(variant, {}).values())


def tasks(results: Results) -> str:
    return many(len(results.environments), "task")


def normalised(results: Results) -> str:
    """Normalised score, and what is 0 and 1 in it."""
    scaling = results.options.scaling
    zero = {"random": "a random policy", "initial": "the untrained policy"}[scaling.random_from]
    one = {"variant": "the mean of the task's best variant", "run": "the task's best run"}[scaling.best_from]
    return f"Normalised score (0: {zero}, 1: {one})"


def method(results: Results) -> str:
    return f"{LEVEL:.0%}, {'Student’s t' if results.seeds < FEW else 'stratified bootstrap'}"


def beyond(what: str) -> str:
    return f"{what} that leave a panel go on beyond it; how far down is written at its edge."


def left_out(results: Results) -> str:
    """Names the variants that cannot be averaged."""
    absent = [variant for variant in results.trained if variant not in results.complete]
    return f"Left out, for want of runs on every task: {', '.join(absent)}." * bool(absent)


def why_raw(results: Results) -> str:
    return f"Scores are not normalised: {results.why_raw}." * bool(results.why_raw)
