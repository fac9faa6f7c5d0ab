"""The road to PPO: a panel per rung and task, the rung's learning curve before those of all the others."""

import numpy as np
from matplotlib.figure import Figure

from analysis.curves import band
from analysis.figures import style
from analysis.figures.curves import steps_axis
from analysis.figures.style import Shown, limits
from analysis.results import Results

RUNGS = {
    "whole_return": "whole return",
    "rewards_to_go": "rewards-to-go",
    "discount": "discount 0.99",
    "baseline": "learned baseline",
    "n_step_5": "n-step, n = 5",
    "gae_0": "GAE, λ = 0",
    "gae_0.95": "GAE, λ = 0.95",
    "ratio_of_trajectories": "off-policy:\nproduct of ratios",
    "ratio_per_step": "off-policy:\nratio per step",
    "a2c": "A2C",
    "trpo": "TRPO",
    "clip_0.2": "PPO, clip 0.2",
}
"""The study's variants in words, in the order of the road."""

COLUMNS = 6
COLOUR = "#2b7bc0"


def ladder(results: Results) -> Figure:
    """Mean over seeds and its interval; the other rungs' means in grey, the random policy's dashed."""
    tasks, rungs = list(results.curves), [rung for rung in RUNGS if rung in results.trained]
    rows = -(-len(rungs) // COLUMNS)
    figure = Figure(figsize=(style.PAGE, 1.25 * rows * len(tasks) + 0.4), layout="constrained")
    axes = figure.subplots(rows * len(tasks), COLUMNS, squeeze=False, sharex=True)
    for block, (task, found) in enumerate(results.curves.items()):
        middles = {rung: band(found.runs[rung]) for rung in rungs if rung in found.runs}
        low, high = limits([Shown(m.centre, np.concatenate(m[1:])) for m in middles.values()])
        for place, rung in enumerate(rungs):
            axis = axes[block * rows + place // COLUMNS, place % COLUMNS]
            for other, middle in middles.items():
                if other != rung:
                    axis.plot(found.env_steps, middle.centre, color=style.PALE, lw=0.6, zorder=1)
            middle = middles[rung]
            axis.plot(found.env_steps, middle.centre, color=COLOUR, zorder=3)
            axis.fill_between(found.env_steps, middle.low, middle.high, color=COLOUR, alpha=0.2, lw=0, zorder=2)
            if "random" in results.raw:
                axis.axhline(results.raw["random"][task].mean(), color="#8c8c8c", ls="--", lw=0.7, zorder=1)
            axis.set(ylim=(low, high), title=RUNGS[rung])
            axis.tick_params(labelleft=place % COLUMNS == 0)
            if place % COLUMNS == 0:
                axis.set_ylabel(f"{task}\nreturn", fontsize=6.5)
            steps_axis(axis, found.env_steps[-1])
    for axis in axes[-1]:
        axis.set_xlabel("env steps")
    return figure
