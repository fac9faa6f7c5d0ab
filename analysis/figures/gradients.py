"""Noise and bias of the policy gradient by rung of the road to PPO: a panel per task and policy, from the table of
`experiments.gradients`."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from analysis.figures import style
from analysis.statistics import Array

TABLE = Path(__file__).parents[1] / "road" / "gradients.csv"

GROUPS: dict[str, dict[str, str]] = {
    "all rewards, γ = 1": {
        "whole_return": "whole return",
        "rewards_to_go": "rewards-to-go",
        "baseline": "… minus baseline",
    },
    "discounted, γ = 0.99": {
        "discounted_rewards_to_go": "rewards-to-go",
        "discounted_baseline": "… minus baseline",
        "n_step_5": "5 steps, then V",
        "gae_0.99": "GAE, λ = 0.99",
        "gae_0.95": "GAE, λ = 0.95",
        "gae_0.9": "GAE, λ = 0.9",
        "gae_0.5": "GAE, λ = 0.5",
        "gae_0": "GAE, λ = 0",
    },
    "another policy’s data, γ = 1": {
        "ratio_of_trajectories": "product of ratios",
        "ratio_per_step": "ratio per step",
    },
}
"""Rungs and their names, group by group, from the top."""

ABOUT = (
    "What random samples (noise) and the estimator itself (bias) add to the policy gradient, relative to the signal: "
    "the part\nof the expected estimate along the true gradient ∇E[Σ r]. Right of 1, a batch is mostly noise, or "
    "mostly wrong."
)
POLICIES = {"initial": "untrained", "half": "half-trained", "late": "nearly trained"}
LOW, HIGH = 0.02, 60.0  # ends of the axis
WORTH = 0.5  # effective per episode: with less, noise is known from below only, and bias not at all
REACH = 1.96  # standard errors on either side of an estimate: an interval of 95 %

NOISE, BIAS = style.FAMILIES["clip"].colours[1], style.FAMILIES["kl_adaptive"].colours[1]
DOT: dict[str, Any] = {"marker": "o", "ls": "", "ms": 4.5, "mec": "white", "mew": 0.5, "color": NOISE, "zorder": 4}
AT_LEAST: dict[str, Any] = {"marker": ">", "ls": "", "ms": 5, "mew": 0, "color": NOISE, "zorder": 4}
DIAMOND: dict[str, Any] = {"marker": "D", "ls": "", "ms": 3.5, "mec": BIAS, "mfc": "white", "mew": 1, "zorder": 4}
AT_MOST: dict[str, Any] = {"marker": "<", "ls": "", "ms": 4.5, "mec": BIAS, "mfc": "white", "mew": 0.7, "zorder": 3}
TICK: dict[str, Any] = {"marker": "|", "ls": "", "ms": 7, "mew": 1, "color": style.INK, "zorder": 5}


def drawing(path: Path = TABLE) -> Figure:
    """What was measured and committed."""
    return gradients(pd.read_csv(path))


def gradients(table: pd.DataFrame) -> Figure:
    """A row of panels per task, a panel per policy."""
    tasks = list(table["task"].unique())
    figure, axes = style.panels(len(tasks) * len(POLICIES), len(POLICIES), 2.6, 0.8)
    places = [(task, policy) for task in tasks for policy in POLICIES]
    for axis, (task, policy) in zip(axes, places, strict=True):
        rows = table[(table["task"] == task) & (table["policy"] == policy)].set_index("rung")
        panel(axis, rows)
        axis.set_title(f"{task}\n{POLICIES[policy]}, mean return {rows['return'].iloc[0]:.0f}")
    style.outer(axes, len(POLICIES))
    figure.suptitle(ABOUT, x=0.01, ha="left", fontsize=7)
    key(figure)
    return figure


def panel(axis: Axes, rows: pd.DataFrame) -> None:
    """Noise and bias of each rung, the first on top."""
    labels: list[str] = []
    headings: list[int] = []
    for heading, rungs in GROUPS.items():
        headings.append(len(labels))
        labels.append(heading)
        for rung, label in rungs.items():
            draw(axis, len(labels), rows.loc[rung], discounted=rung in GROUPS["discounted, γ = 0.99"])
            labels.append(label)
    axis.axvline(1, color=style.INK, lw=0.6, zorder=1)
    axis.set(xscale="log", xlim=(LOW, HIGH), ylim=(len(labels) - 0.4, -0.6), xlabel="relative to the signal")
    axis.set_yticks(range(len(labels)), labels)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="y", visible=False)
    axis.xaxis.set_major_locator(LogLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.minorticks_off()
    for row in headings:
        axis.get_yticklabels()[row].set_fontweight("bold")
        axis.axhline(row, color=style.PALE, lw=0.6, zorder=0)


def draw(axis: Axes, place: int, row: pd.Series, discounted: bool) -> None:
    """A rung: its noise above the middle of its place, its bias below."""
    above, below = place - 0.15, place + 0.2
    if row["effective_episodes"] < WORTH * row["episodes"]:
        axis.plot(min(row["noise"], HIGH), above, **AT_LEAST)
        return
    reach = REACH * row["noise_se"]
    axis.plot([max(row["noise"] - reach, LOW), row["noise"] + reach], [above, above], color=NOISE, lw=1.2)
    axis.plot(row["noise"], above, **DOT)
    low, middle, high = roots(row, "squared_turn")
    if low > 0:
        axis.plot([low, high], [below, below], color=BIAS, lw=1.2)
        axis.plot(middle, below, **DIAMOND)
    else:
        axis.plot(max(high, 1.15 * LOW), below, **AT_MOST)
    if discounted and (ends := roots(row, "squared_turn_discounted"))[0] > 0:
        axis.plot(ends[1], below, **TICK)


def roots(row: pd.Series, square: str) -> Array:
    """Root of an estimated square between the ends of its interval; 0 for what is below."""
    offsets = np.array([-REACH, 0, REACH]) * row[f"{square}_se"]
    return np.sqrt(np.maximum(row[square] + offsets, 0))


def key(figure: Figure) -> None:
    """The legend in words."""
    plain = style.Look(style.INK, "")
    marks = {
        "noise of a batch of 2048 env steps": DOT,
        "noise above this, too rare to sample": AT_LEAST,
        "bias": DIAMOND,
        "bias below this, perhaps 0": AT_MOST,
        "bias against the discounted gradient": TICK,
    }
    style.say_below(figure, [style.handle(plain, label, **mark) for label, mark in marks.items()])
