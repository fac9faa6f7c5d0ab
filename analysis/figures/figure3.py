"""Figure 3 of the paper in its layout: PPO and what it was set against, a panel per task, beside what was published."""

import numpy as np
from matplotlib.figure import Figure

from analysis.curves import band
from analysis.figures import style
from analysis.figures.curves import say_leaving, steps_axis
from analysis.figures.style import Look, Shown, limits
from analysis.paper import published
from analysis.results import Results

LEGEND = {
    "a2c": ("A2C", "#a39400"),
    "a2c_trust_region": ("A2C + Trust Region", "#882255"),
    "cem": ("CEM", "#8c8c8c"),
    "clip_0.2": ("PPO (Clip)", "#2b7bc0"),
    "vpg_adaptive": ("Vanilla PG, Adaptive", "#d55e00"),
    "trpo": ("TRPO", "#1b9e77"),
}
"""The study's variants by the figure's names, in its order."""

COLUMNS = 4
BESIDE = 1.03  # where a reading stands, in budgets


def figure3(results: Results) -> Figure:
    """Each run thin, their mean bold; ◂ marks the height at 1 M env steps that others read off the printed figure."""
    tasks, readings = list(results.curves), published.figure3()
    figure, axes = style.panels(len(tasks) + 1, COLUMNS, 1.7, 0.1)
    looks = {variant: Look(colour, "-") for variant, (_, colour) in LEGEND.items() if variant in results.trained}
    for axis, task in zip(axes, tasks, strict=False):
        found = results.curves[task]
        runs = {variant: found.runs[variant] for variant in looks if variant in found.runs}
        printed = readings.loc[task.rpartition("-")[0]] if task.rpartition("-")[0] in readings.index else {}
        heights = {variant: float(printed[variant]) for variant in looks if variant in printed}
        shown = [Shown(each) for each in runs.values()] + [Shown(np.array([h])) for h in heights.values()]
        low, high = limits(shown)
        for variant, each in runs.items():
            colour = looks[variant].colour
            axis.plot(found.env_steps, band(each).centre, color=colour, zorder=3)
            axis.plot(found.env_steps, each.T, color=colour, lw=0.4, alpha=0.4)
        for variant, height in heights.items():
            if height >= low:
                axis.plot(
                    found.env_steps[-1] * BESIDE, height, marker="<", ms=4.5, mew=0, color=looks[variant].colour,
                    clip_on=False, zorder=4,
                )  # fmt: skip
        steps_axis(axis, found.env_steps[-1])
        axis.set(ylim=(low, high), title=task, xlabel="env steps")
        say_leaving(axis, {LEGEND[variant][0]: each for variant, each in runs.items()}, low)
    last = axes[len(tasks)]
    last.axis("off")
    handles = [style.handle(look, LEGEND[variant][0]) for variant, look in looks.items()]
    ink = Look(style.INK, "none")
    last.legend(handles=[*handles, style.handle(ink, "read off the paper's figure", marker="<", ms=4.5)], loc="center")
    return figure
