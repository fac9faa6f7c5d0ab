"""Figures over env steps: returns by task, and normalised scores averaged over tasks."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis import scores, statistics
from analysis.curves import Band, Curves, band, few, pooled
from analysis.figures import style
from analysis.figures.style import Group, Look, Shown, limits
from analysis.results import Results
from analysis.scores import UNTRAINED
from analysis.statistics import Array

BANDS = 4  # in one panel; more hide each other
BANDS_AND_RUNS = 2
COLUMNS = 3  # groups side by side, where a panel is an average over tasks
MOST_COLUMNS = 4  # groups side by side in a grid of fewer tasks

Panels = dict[tuple[int, str], Axes]
"""By a group's place and the subject, which is a task or their average."""


def curves(results: Results) -> Figure:
    """Returns against env steps: a panel per task, and per group of variants where there are many."""
    groups, looks = style.groups(results.trained), style.looks(results.variants)
    references = [variant for variant in UNTRAINED if variant in results.raw]
    figure, axes = grid(groups, results.environments, "env steps", "return")
    for environment, found in results.curves.items():
        learning = {variant: runs for variant, runs in found.runs.items() if variant in results.trained}
        levels = {v: results.raw[v][environment].mean() for v in references if environment in results.raw[v]}
        middles = {variant: band(runs) for variant, runs in learning.items()}
        shown = [Shown(run) for runs in learning.values() for run in runs]
        shown += [Shown(np.array([level])) for level in levels.values()]
        banded = banded_in(groups, few(found))
        shown += [Shown(middle.centre, np.concatenate(middle[1:])) for middle in middles.values() if banded]
        low, high = limits(shown)
        for place, group in enumerate(groups):
            axis = axes[place, environment]
            for reference, level in levels.items():
                axis.axhline(level, color=looks[reference].colour, ls=looks[reference].dashes, lw=0.8, zorder=1)
            inside = {v: name for v, name in zip(group.variants, group.names, strict=True) if v in learning}
            for variant in inside:
                draw(axis, found.env_steps, middles[variant], looks[variant], banded)
                if few(found):
                    axis.plot(found.env_steps, learning[variant].T, color=looks[variant].colour, lw=0.4, alpha=0.4)
            steps_axis(axis, found.env_steps[-1])
            axis.set_ylim(low, high)
            say_leaving(axis, {name: learning[variant] for variant, name in inside.items()}, low)
    say_groups(figure, groups, axes, looks, references)
    return figure


def efficiency(results: Results) -> Figure:
    """Normalised score averaged over tasks against env steps: a panel per group of complete variants, in which the
    other variants are grey."""
    groups, looks = style.groups(results.complete), style.looks(results.variants)
    x, found = averaged(results)
    columns = min(len(groups), COLUMNS)
    figure, axes = style.panels(len(groups), columns, 2.4, 0.6)
    low, high = limits([Shown(middle.centre, np.concatenate(middle[1:])) for middle in found.values()])
    for axis, group in zip(axes, groups, strict=True):
        for variant in (v for v in found if v not in group.variants):
            axis.plot(x, found[variant].centre, color=style.PALE, lw=0.7, zorder=1)
        for variant in group.variants:
            draw(axis, x, found[variant], looks[variant], banded_in(groups))
        axis.set(ylim=(low, high), xlabel="env steps", ylabel="normalised score", title=style.title(groups, group))
        steps_axis(axis, x[-1])
        say_leaving(axis, {n: found[v].centre for v, n in zip(group.variants, group.names, strict=True)}, low)
    style.outer(axes, columns)
    style.say_groups(figure, groups, axes, looks)
    return figure


def overlaid(sides: Mapping[str, tuple[str, Mapping[str, Curves]]]) -> Figure:
    """The returns of two sides, a variant and its curves each, in bins of their own: a panel per task."""
    looks = dict(zip(sides, (Look(style.INVENTED[0], "-"), Look(style.INK, "--")), strict=True))
    tasks = list(next(iter(sides.values()))[1])
    figure, axes = style.panels(len(tasks), style.per_row(len(tasks)), 1.8, 0.7)
    for axis, task in zip(axes, tasks, strict=True):
        for name, look in looks.items():
            variant, curves = sides[name]
            found = curves[task]
            draw(axis, found.env_steps, band(found.runs[variant]), look, banded=True)
            steps_axis(axis, found.env_steps[-1])
        axis.set(title=task, xlabel="env steps", ylabel="return" if axis is axes[0] else "")
    style.say_below(figure, [style.handle(look, name) for name, look in looks.items()])
    return figure


def banded_in(groups: Sequence[Group], with_runs: bool = False) -> bool:
    """Whether panels bear bands: with lines of the runs there is room for fewer."""
    return max(len(group.variants) for group in groups) <= (BANDS_AND_RUNS if with_runs else BANDS)


def averageable(results: Results) -> bool:
    """Whether scores can be normalised, and by something else than themselves."""
    return bool(results.normalised) and len(results.complete) > 1


def averaged(results: Results) -> tuple[Array, dict[str, Band]]:
    """Env steps (bins,) and, by complete variant, the mean over tasks of normalised curves with its t interval, in as
    many bins as the task with fewest has. Of tasks with different budgets, env steps are those of the largest."""
    fewest = min(len(found.env_steps) for found in results.curves.values())
    budget = max(found.env_steps[-1] for found in results.curves.values())
    returns = {
        variant: {task: pooled(found.runs[variant], fewest).T for task, found in results.curves.items()}
        for variant in results.complete
    }
    assert results.references is not None
    found = {}
    for variant, cells in scores.normalise(returns, results.references).items():
        tasks = list(cells.values())
        there = np.all([np.isfinite(runs).all(axis=1) for runs in tasks], axis=0)
        middle = Band(*(np.full(fewest, np.nan) for _ in Band._fields))
        whole = [runs[there] for runs in tasks]
        middle.centre[there] = statistics.mean(whole)
        if min(runs.shape[1] for runs in whole) > 1:
            middle.low[there], middle.high[there] = statistics.t_interval(whole)
        found[variant] = middle
    return np.linspace(0, budget, fewest + 1)[1:], found


def draw(axis: Axes, x: Array, middle: Band, look: Look, banded: bool) -> None:
    """A mean over runs, its interval behind."""
    axis.plot(x, middle.centre, color=look.colour, ls=look.dashes, zorder=3)
    if banded:
        axis.fill_between(x, middle.low, middle.high, color=look.colour, alpha=0.15, lw=0, zorder=2)


def say_leaving(axis: Axes, shown: Mapping[str, Array], bottom: float) -> None:
    """At the lower edge: whose curves leave the panel there, and the lowest value they reach."""
    lowest = {name: float(np.nanmin(values)) for name, values in shown.items() if np.isfinite(values).any()}
    leaving = [(name, low) for name, low in lowest.items() if low < bottom]
    for line, (name, low) in enumerate(leaving):
        axis.annotate(
            f"↓ {style.shortened(name)} to {style.number(low)}", (0, 0), (3, 3 + 8 * line), xycoords="axes fraction",
            textcoords="offset points", fontsize=6, zorder=5,
            bbox={"facecolor": "white", "alpha": 0.8, "pad": 0.5, "lw": 0},
        )  # fmt: skip


def steps_axis(axis: Axes, budget: float) -> None:
    """From 0 to the budget, in thousands or millions of env steps."""
    unit, letter = next((u, s) for u, s in ((1e6, "M"), (1e3, "k"), (1, "")) if budget >= u)
    axis.set_xlim(0, budget)
    axis.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda steps, _: f"{steps / unit:g}{letter}" if steps else "0"))


def grid(groups: Sequence[Group], subjects: Sequence[str], xlabel: str, ylabel: str) -> tuple[Figure, Panels]:
    """A panel per group and subject: of one group in rows of up to four; of several, groups are columns or, if there
    are many, rows."""
    many, across = len(groups) > 1, in_columns(groups, subjects)
    columns = (len(groups) if across else len(subjects)) if many else style.per_row(len(subjects))
    figure, flat = style.panels(len(groups) * len(subjects), columns, 1.5 if many else 1.8, 0.7)
    axes: Panels = {}
    for place, group in enumerate(groups):
        for number, subject in enumerate(subjects):
            at = number * columns + place if across else place * len(subjects) + number
            axis = axes[place, subject] = flat[at]
            left, top, bottom = at % columns == 0, at < columns, at + columns >= len(flat)
            title = style.title(groups, group)
            above, beside = (title, subject) if across else (subject, title)
            axis.set_title(above if top or not many else "")
            axis.set_ylabel("\n".join(filter(None, [beside, ylabel])) if left else "", fontsize=6.5)
            axis.set_xlabel(xlabel if bottom else "")
            axis.tick_params(labelbottom=bottom or not many, labelleft=left or not across)
    return figure, axes


def in_columns(groups: Sequence[Group], subjects: Sequence[str]) -> bool:
    """Whether several groups are columns: names beside a row would take a panel's place."""
    return 1 < len(groups) <= max(len(subjects), 1 if style.alike(groups) else MOST_COLUMNS)


def say_groups(
    figure: Figure, groups: Sequence[Group], axes: Panels, looks: Mapping[str, Look], others: Sequence[str] = ()
) -> None:
    """Legends of a grid: above its columns or beside its rows."""
    subjects = list(dict.fromkeys(subject for _, subject in axes))
    above = in_columns(groups, subjects)
    ends = [axes[place, subjects[0 if above else -1]] for place in range(len(groups))]
    style.say_groups(figure, groups, ends, looks, others, above)
