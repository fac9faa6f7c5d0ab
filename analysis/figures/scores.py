"""Scores as figures: performance profiles, intervals beside the published ones, and a heat map over tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import scores, statistics
from analysis.figures import style
from analysis.figures.curves import COLUMNS, averageable
from analysis.figures.style import Shown, limits
from analysis.paper import published
from analysis.replicate import SEEDS
from analysis.results import Results
from analysis.statistics import LEVEL, Array, Interval

Marks = dict[str, Any]

THRESHOLDS = 201  # τ of the performance profile
LOWEST_TAU = -0.25
DOTS = 40  # runs of a variant that can be told apart on a line
DARK = 0.55  # from here on cells need white numbers
LEAST, BELOW = -0.05, "#f5c9a3"  # cells clearly below the random policy have a colour of their own
MEAN: Marks = {"marker": "o", "ls": "", "ms": 5, "mec": "white", "mew": 0.7, "zorder": 4}
INTERVAL: Marks = {"lw": 2.2, "zorder": 3}
RUN: Marks = {"marker": "o", "ls": "", "ms": 2.5, "mew": 0, "alpha": 0.35, "zorder": 2}
RERUNS: Marks = {"lw": 0.6}
PAPER: Marks = {"marker": "D", "ls": "", "ms": 3.5, "mec": style.INK, "mfc": "white", "mew": 0.8, "zorder": 4}


def profile(results: Results) -> Figure:
    """Share of runs above τ, averaged over tasks: a panel per group of complete variants, the others grey."""
    groups, looks = style.groups(results.complete), style.looks(results.variants)
    cells = {variant: results.cells(variant) for variant in results.complete}
    runs = np.concatenate([runs for tasks in cells.values() for runs in tasks])
    tau = np.linspace(max(runs.min() - 0.02, LOWEST_TAU), runs.max() + 0.02, THRESHOLDS)
    shares = {variant: statistics.performance_profile(tasks, tau) for variant, tasks in cells.items()}
    columns = min(len(groups), COLUMNS)
    figure, axes = style.panels(len(groups), columns, 2.4, 0.6)
    for axis, group in zip(axes, groups, strict=True):
        for variant in (v for v in shares if v not in group.variants):
            axis.plot(tau, shares[variant], color=style.PALE, lw=0.7, zorder=1)
        for variant in group.variants:
            axis.plot(tau, shares[variant], color=looks[variant].colour, ls=looks[variant].dashes)
        axis.set(xlim=(tau[0], tau[-1]), xlabel="normalised score τ", title=style.title(groups, group))
        axis.set(ylim=(0, 1.02), ylabel="share of runs above τ")
        axis.xaxis.set_major_locator(MaxNLocator(4))
    style.outer(axes, columns)
    style.say_groups(figure, groups, axes, looks)
    return figure


def intervals(results: Results) -> Figure:
    """A row per variant: its runs, their mean and its interval. Normalised scores averaged over tasks, and the paper's
    beside them; else raw scores, a panel per task."""
    return averaged_intervals(results) if averageable(results) else raw_intervals(results)


def averaged_intervals(results: Results) -> Figure:
    rows = results.complete
    figure = Figure(figsize=(style.PAGE, 0.9 + 0.27 * len(rows)), layout="constrained")
    axis = figure.add_subplot(xlabel=label(results))
    printed = published.table1()["score"][results.paper_rows]
    forest(axis, results, rows, {v: results.cells(v) for v in rows}, results.intervals, list(printed))
    if results.paper_rows:
        ends = results.reruns.quantile([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        for variant, score in printed.items():
            paper(axis, rows.index(str(variant)), score, ends[variant])
    key(figure, results, rows)
    return figure


def paper(axis: Axes, row: int, score: float, ends: Array) -> None:
    """Below a row: the published score, and where re-runs of it would lie."""
    axis.plot(ends, [row + 0.3, row + 0.3], color=style.INK, **RERUNS)
    axis.plot(score, row + 0.3, **PAPER)


def label(results: Results) -> str:
    zero, one = results.options.scaling
    return f"normalised score (0: {zero} policy, 1: best {one})"


def raw_intervals(results: Results) -> Figure:
    columns = min(len(results.environments), 3)
    height = 0.6 + 0.2 * len(results.trained)
    figure, axes = style.panels(len(results.environments), columns, height, 0.4)
    for axis, environment in zip(axes, results.environments, strict=True):
        cells = {v: [results.raw[v][environment]] for v in results.trained if environment in results.raw.get(v, {})}
        known = {v: statistics.interval(runs, results.rng()) for v, runs in cells.items() if runs[0].size > 1}
        axis.set(title=environment, xlabel="score (return)")
        forest(axis, results, results.trained, cells, known)
    for number, axis in enumerate(axes):
        axis.tick_params(labelleft=number % columns == 0)
    key(figure, results, [])
    return figure


def forest(
    axis: Axes,
    results: Results,
    variants: Sequence[str],
    cells: Mapping[str, Sequence[Array]],
    known: Mapping[str, Interval],
    visible: Sequence[float] = (),
) -> None:
    """A row per variant, the first on top. The axis spans `visible` too; a mean that it leaves out is written down."""
    colours = style.colours(results.variants)
    means = {variant: float(statistics.mean(runs)) for variant, runs in cells.items()}
    dots = {variant: dots_of(runs) for variant, runs in cells.items()}
    ends_of = {variant: np.array([*known[variant][:2]] if variant in known else []) for variant in cells}
    low, high = limits([Shown(np.array([means[v], *dots[v]]), ends_of[v]) for v in cells])
    low, high = min([low, *(value - 0.05 for value in visible)]), max([high, *(value + 0.05 for value in visible)])
    for row, variant in enumerate(variants):
        if variant not in cells:
            continue
        axis.plot(dots[variant], np.full(len(dots[variant]), row), color=colours[variant], **RUN)
        estimate(axis, row, means[variant], ends_of[variant], colours[variant], low)
    axis.set(xlim=(low, high), ylim=(len(variants) - 0.4, -0.6), yticks=range(len(variants)), yticklabels=variants)
    axis.grid(axis="y", visible=False)


def estimate(axis: Axes, row: int, mean: float, ends: Array, colour: str, low: float) -> None:
    """A mean and the ends of its interval, if there is one; a mean below `low`, where the axis begins, is written."""
    if len(ends):
        axis.plot(ends, [row, row], color=colour, **INTERVAL)
    axis.plot(mean, row, color=colour, **MEAN)
    if mean < low:
        said = f" [{style.number(ends[0])}, {style.number(ends[1])}]" if len(ends) else ""
        axis.annotate(
            f"← mean {style.number(mean)}{said}", (0, row), (2, 3), xycoords=("axes fraction", "data"),
            textcoords="offset points", fontsize=6, zorder=5,
        )  # fmt: skip


def dots_of(runs: Sequence[Array]) -> Array:
    """Every run, or the mean of each task if there are too many."""
    return np.concatenate(runs) if sum(map(len, runs)) <= DOTS else statistics.means(runs)


def key(figure: Figure, results: Results, averaged: Sequence[str]) -> None:
    """The legend in words; `averaged` are the variants of a figure of averages."""
    ink = style.Look(style.INK, "-")
    each = "run" if not averaged or max(sum(map(len, results.cells(v))) for v in averaged) <= DOTS else "task"
    handles = [style.handle(ink, "mean", **MEAN)]
    if results.intervals if averaged else results.seeds > 1:
        handles.append(style.handle(ink, f"{LEVEL:.0%} interval of the mean", **INTERVAL))
    handles.append(style.handle(ink, each, **RUN))
    if averaged and results.paper_rows:
        handles += paper_key()
    style.say_below(figure, handles)


def paper_key() -> list[Line2D]:
    ink = style.Look(style.INK, "-")
    return [
        style.handle(ink, "paper, Table 1", **PAPER),
        style.handle(ink, f"{LEVEL:.0%} of re-runs with {SEEDS} seeds", **RERUNS),
    ]


def heatmap(results: Results) -> Figure:
    """Variants by tasks: mean scores, as numbers and as colours from light (low) to dark; below the random policy
    another colour."""
    normalised = averageable(results)
    values = scores.normalise(results.raw, results.references) if results.references and normalised else results.raw
    rows, columns = results.variants, list(results.environments)
    table = np.array([[values.get(v, {}).get(e, np.array([np.nan])).mean() for e in columns] for v in rows])
    if normalised:
        table, columns = np.column_stack([table, table.mean(axis=1)]), [*columns, "average"]
    shade = table.round(2) if normalised else shares(table)
    figure = Figure(figsize=(2.0 + 0.65 * len(columns), 1.2 + 0.2 * len(rows)), layout="constrained")
    axis = figure.add_subplot()
    colours = matplotlib.colormaps["Blues"].with_extremes(under=BELOW, bad="white")
    image = axis.pcolormesh(shade, cmap=colours, norm=Normalize(LEAST, 1), edgecolor="white", linewidth=1)
    for (row, column), value in np.ndenumerate(table):
        colour = "white" if shade[row, column] > DARK else style.INK
        text = style.number(value) if np.isfinite(value) else "–"
        axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, fontsize=6.5)
    axis.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=30, ha="right", rotation_mode="anchor")
    axis.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axis.invert_yaxis()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.grid(False)
    if normalised:
        figure.colorbar(image, extend="min", label="normalised score", aspect=30, pad=0.02, ticks=np.linspace(0, 1, 6))
    return figure


def shares(table: Array) -> Array:
    """Raw scores of each column as shares of the way from its lowest to its highest."""
    ends = [limits([Shown(np.array([value])) for value in column]) for column in table.T]
    low, high = np.array(ends).T
    return (table - low) / (high - low)
