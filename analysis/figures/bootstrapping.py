"""Bootstrapping as a drawing, from the numbers of one real rollout: what four estimators take for the return from one
moment, and where V stands in for what a rollout does not hold.

Every estimator is a weighted mean of n-step estimates: n rewards, then V. Monte Carlo takes the longest, TD the
shortest, GAE some of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.patches import Patch
from numpy.typing import NDArray

from analysis.figures import style
from analysis.records import RecordError
from analysis.statistics import Array

ROLLOUT = Path(__file__).parents[1] / "road" / "rollout.csv"
Flags = NDArray[np.bool_]
COLUMNS = ("t", "reward", "value", "next_value", "terminated", "truncated")
REWARD, VALUE = "#2b7bc0", "#e8893a"
BEFORE, AFTER = 10, 3  # env steps shown around the moment and the end of its episode
AHEAD = 40  # env steps from the moment to its episode's end: late enough for all of them to be seen
STEPS = 5  # n of the n-step estimate
FALLS = {"CartPole-v1": "the pole falls"}  # how people call the end of an episode
LAST = 80  # env steps shown before a cut
RIGHT = 0.69  # of the figure: where its words begin
FAINTEST = 0.12  # a weight of 0 < w ≤ 1 is drawn this opaque or more


@dataclass
class Rollout:
    """T env steps; `next_value` is V of what followed a step, `terminated` says that nothing could."""

    task: str
    trained: int  # env steps
    gamma: float
    gae_lambda: float
    reward: Array
    value: Array
    next_value: Array
    terminated: Flags
    truncated: Flags


@dataclass
class Estimate:
    """Of the return from t: how much each reward counts, how much V after each step, and what that comes to."""

    reward_weights: Array  # from step t on
    value_weights: Array  # of V after step t, after t + 1, …
    from_rewards: float
    from_values: float

    @property
    def total(self) -> float:
        return self.from_rewards + self.from_values


def read(path: Path = ROLLOUT) -> Rollout:
    """What experiments.rollout_numbers wrote; RecordError if it is something else."""
    try:
        story = dict(word.split("=", 1) for word in path.read_text().partition("\n")[0].split()[1:])
        table = pd.read_csv(path, comment="#")[list(COLUMNS)]
        return Rollout(
            story["run"].rpartition("-")[0], int(story["env_steps"]), float(story["gamma"]),
            float(story["gae_lambda"]), *(table[name].to_numpy(dtype=float) for name in COLUMNS[1:4]),
            *(table[name].to_numpy(dtype=bool) for name in COLUMNS[4:]),
        )  # fmt: skip
    except (OSError, KeyError, ValueError) as error:
        raise RecordError(f"{path} is no rollout that experiments.rollout_numbers wrote: {error!r}") from error


def mean_of(rollout: Rollout, t: int, weights: Array) -> Estimate:
    """The mean of the n-step estimates from t with these weights, n = 1, 2, …; they sum to 1."""
    steps = slice(t, t + len(weights))
    discount = rollout.gamma ** np.arange(len(weights) + 1)
    reward_weights = discount[:-1] * weights[::-1].cumsum()[::-1]  # a reward is in all longer estimates
    value_weights = discount[1:] * weights * ~rollout.terminated[steps]
    return Estimate(
        reward_weights,
        value_weights,
        float(reward_weights @ rollout.reward[steps]),
        float(value_weights @ rollout.next_value[steps]),
    )


def mixtures(length: int, gae_lambda: float) -> dict[str, Array]:
    """The weights that each estimator gives to n-step estimates, n = 1 … length."""
    one = np.eye(length)
    gae = (1 - gae_lambda) * gae_lambda ** np.arange(length)
    gae[-1] = gae_lambda ** (length - 1)  # what is left
    return {
        "Monte Carlo": one[-1],
        f"{STEPS} steps, then V": one[min(STEPS, length) - 1],
        "TD: 1 step, then V": one[0],
        f"GAE, λ = {gae_lambda:g}": gae,
    }


def cuts(rollout: Rollout) -> dict[str, int]:
    """Three ways in which rewards stop, and the last env step before the first of each that is late enough to draw."""
    ended = rollout.terminated | rollout.truncated
    open_end = np.append(np.zeros(len(ended) - 1, dtype=bool), ~ended[-1])
    ways = {
        "The episode is over: nothing follows": rollout.terminated,
        "A time limit cuts it: V stands in": rollout.truncated & ~rollout.terminated,
        "The rollout ends: V stands in": open_end,
    }
    found = {}
    for words, where in ways.items():
        late = [int(end) for end in np.flatnonzero(where) if end + 1 >= LAST and not ended[end + 1 - LAST : end].any()]
        if not late:
            raise RecordError(
                f"the rollout cannot show “{words}” after {LAST} env steps of an episode; try another seed"
            )
        found[words] = late[0]
    return found


def drawing(path: Path = ROLLOUT) -> Figure:
    """Above: one moment before the first episode's end. Below: the last env steps before each kind of cut."""
    rollout = read(path)
    ends = cuts(rollout)
    end = next(iter(ends.values()))
    t = end - AHEAD
    weights = mixtures(end - t + 1, rollout.gae_lambda)
    estimates = {name: mean_of(rollout, t, each) for name, each in weights.items()}
    figure = Figure(figsize=(style.PAGE, 6.7))
    say(figure, rollout)
    upper = GridSpec(3, 2, figure, left=0.15, right=0.985, top=0.915, bottom=0.415, width_ratios=(1.75, 1),
                     height_ratios=(1.15, 1.25, 0.55), hspace=0.12, wspace=0.06)  # fmt: skip
    lower = GridSpec(1, 3, figure, left=0.075, right=0.985, top=0.235, bottom=0.068, wspace=0.08)
    values = figure.add_subplot(upper[0, 0])
    counted = figure.add_subplot(upper[1, 0], sharex=values)
    lambdas = figure.add_subplot(upper[2, 0], sharex=values)
    draw_values(values, rollout, t, end)
    draw_counted(counted, estimates, t)
    draw_totals(figure.add_subplot(upper[1, 1]), estimates, rollout.value[t])
    draw_lambdas(lambdas, list(weights.values())[-1], t)
    for axis in (values, counted, lambdas):
        axis.axvline(t, color=style.INK, lw=0.8, zorder=0.9)
        axis.axvline(end + 1, color=style.ALARM, lw=0.8, zorder=0.9)
        axis.tick_params(labelbottom=axis is lambdas)
    first = figure.add_subplot(lower[0], ylabel="estimate of the return")
    others = [figure.add_subplot(lower[column], sharey=first) for column in (1, 2)]
    draw_cuts([first, *others], rollout, ends)
    return figure


def say(figure: Figure, rollout: Rollout) -> None:
    """Titles, key, and how to read the rows."""
    alike = f" Every env step earns {rollout.reward[0]:g}." * bool(np.ptp(rollout.reward) == 0)
    of = f"A real rollout on {rollout.task}, after {rollout.trained:,} env steps of training; γ = {rollout.gamma:g}."
    for y, title, more in (
        (0.985, "One moment, four estimates of the return that follows", of + alike),
        (0.325, "Where the rewards stop, and what stands in for the rest",
         "Counting the rest as nothing would make every cut look like a fall. What V gets wrong, estimates inherit."),
    ):  # fmt: skip
        figure.text(0.015, y, title, fontsize=9.5, weight="bold", va="top")
        figure.text(0.015, y - 0.031, more, va="top")
    for line, (mark, colour, words) in enumerate((
        ("", "", "How to read a row:"), ("■", REWARD, "a reward that is added up,"),
        ("◆", VALUE, "where V takes over for the rest."), ("", "", "The paler, the less it counts."),
    )):  # fmt: skip
        figure.text(RIGHT, 0.86 - 0.024 * line, mark, color=colour or style.INK, va="top")
        figure.text(RIGHT + 0.018 * bool(mark), 0.86 - 0.024 * line, words, va="top")
    gae = "GAE is a mean of n-step estimates.\nTheir weights: (1 − λ)λⁿ⁻¹, and what\nis left goes to Monte Carlo’s."
    figure.text(RIGHT, 0.478, gae, va="top", linespacing=1.5)
    key = [Patch(color=REWARD, label="rewards, seen"), Patch(color=VALUE, label="V, the critic’s guess of the rest")]
    figure.legend(handles=key, loc="upper right", bbox_to_anchor=(0.99, 0.99))


def draw_values(axis: Axes, rollout: Rollout, t: int, end: int) -> None:
    """The critic's V along the way, and the rewards, to one scale."""
    steps = np.arange(t - BEFORE, end + 1)
    axis.plot(steps, rollout.value[steps], color=VALUE, marker="o", ms=2.2, lw=1)
    axis.scatter(steps, rollout.reward[steps], color=REWARD, s=7, marker="s", lw=0)
    axis.plot(t, rollout.value[t], color=VALUE, marker="o", ms=5, mec=style.INK, mew=0.8)
    top = 1.18 * rollout.value[steps].max()
    axis.text(t + 0.7, top, f"now: V = {rollout.value[t]:.1f}", va="top")
    axis.text(end + 0.5, top, FALLS.get(rollout.task, "it is over"), va="top", ha="right", color=style.ALARM)
    axis.set(xlim=(t - BEFORE - 1, end + AFTER), ylim=(-1.5, 1.03 * top), ylabel="V and reward")


def draw_counted(axis: Axes, estimates: dict[str, Estimate], t: int) -> None:
    """A row per estimator: the rewards it adds up, and the moments at which it asks the critic."""
    for row, estimate in enumerate(estimates.values()):
        for weights, first, colour, marker, size, shift in (
            (estimate.reward_weights, t, REWARD, "s", 13, -0.1),
            (estimate.value_weights, t + 1, VALUE, "D", 17, 0.18),
        ):
            if not (counts := np.flatnonzero(weights)).size:
                continue
            opaque = FAINTEST + (1 - FAINTEST) * weights[counts] / weights.max()
            axis.scatter(first + counts, np.full(len(counts), row + shift), color=colour, alpha=opaque, marker=marker,
                         s=size, lw=0)  # fmt: skip
    axis.set_yticks(range(len(estimates)), list(estimates))
    axis.set_ylim(len(estimates) - 0.45, -0.6)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)


def draw_totals(axis: Axes, estimates: dict[str, Estimate], value: float) -> None:
    """What the rows come to."""
    largest = max(value, *(estimate.total for estimate in estimates.values()))
    for row, estimate in enumerate(estimates.values()):
        axis.barh(row, estimate.from_rewards, 0.5, color=REWARD)
        axis.barh(row, estimate.from_values, 0.5, estimate.from_rewards, color=VALUE)
        axis.text(1.2 * largest, row, f"{estimate.total:.1f}", va="center", ha="right", weight="bold")
    axis.axvline(value, color=style.INK, lw=0.8, ls="--")
    axis.set(xlim=(0, 1.22 * largest), ylim=(len(estimates) - 0.45, -0.6), yticks=[])
    axis.set_title(f"what it comes to (dashed: V = {value:.1f})", fontsize=7, pad=3)
    axis.grid(axis="y", visible=False)


def draw_lambdas(axis: Axes, weights: Array, t: int) -> None:
    """How much of each n-step estimate is in GAE's, below the moment at which it asks the critic."""
    axis.bar(t + 1 + np.arange(len(weights)), weights, 0.7, color=style.INK)
    axis.set(ylabel="GAE’s\nweights", ylim=(0, 1.3 * weights.max()), xlabel="env step of the rollout")


def draw_cuts(axes: Sequence[Axes], rollout: Rollout, ends: dict[str, int]) -> None:
    """Per way to stop: at each of the last steps, the rewards until then, and what V adds."""
    for axis, (words, end) in zip(axes, ends.items(), strict=True):
        steps = range(end + 1 - LAST, end + 1)
        longest = [mean_of(rollout, t, np.eye(end + 1 - t)[-1]) for t in steps]
        seen, total = np.array([each.from_rewards for each in longest]), np.array([each.total for each in longest])
        axis.fill_between(steps, seen, color=REWARD, lw=0)
        axis.fill_between(steps, seen, total, color=VALUE, lw=0)
        axis.axvline(end, color=style.ALARM, lw=0.8)
        if total[-1] > seen[-1]:
            axis.text(end - 2, total[-1] / 2, f"V = {rollout.next_value[end]:.1f}", ha="right", color="white")
        axis.set(xlim=(steps[0], end + AFTER), title=words, xlabel="env step of the rollout")
        axis.tick_params(labelleft=axis is axes[0])
