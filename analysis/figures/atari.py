"""Figure 6 of the paper in its layout: a panel per game, scores against frames, and where the paper's PPO ended."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from analysis.curves import band
from analysis.figures import style
from analysis.figures.curves import draw, say_leaving, steps_axis
from analysis.figures.style import Look, Shown, limits
from analysis.paper import published
from analysis.results import Results
from analysis.scores import UNTRAINED
from analysis.statistics import Array

FRAMES = 4  # per env step: an action is repeated, and the paper counts each repetition (10 M env steps, 40 M frames)
COLUMNS = 7  # of the paper's 49 games
FEW_GAMES = 16  # up to so many stand in fewer columns
COLOURS = ("#2b7bc0", "#d55e00", "#1b9e77", "#882255", "#a39400", "#cc78bc", "#8c8c8c")
"""By a variant's place: lines in panels this small are told apart by colour alone."""
PUBLISHED, OF_OTHERS = Look(style.INK, "--"), Look(style.INK, ":")
BINS = 20  # of a published training run: a mean of some ten games


def beside_others(results: Results) -> Figure:
    """Figure 6, and in the panels of games that others published a training run of, that run at equal frames."""
    return figure6(results, published.atari_training())


def figure6(results: Results, training: pd.DataFrame | None = None) -> Figure:
    """Mean over seeds and its interval, all variants in one panel; dashed: the final score of PPO in Table 6, and in
    grey the mean scores of policies that do not learn. Dotted: `training`, if given, as published.atari_training."""
    tasks, names = list(results.curves), published.atari_human()["game"]
    printed = published.table6()["ppo"]
    looks = {v: Look(COLOURS[place % len(COLOURS)], "-") for place, v in enumerate(results.trained)}
    references = [variant for variant in UNTRAINED if variant in results.raw]
    longest = FRAMES * max(found.env_steps[-1] for found in results.curves.values())
    columns = style.per_row(len(tasks)) if len(tasks) <= FEW_GAMES else COLUMNS
    figure, axes = style.panels(len(tasks), columns, 1.25 if columns == COLUMNS else 1.8, 0.5)
    for place, (axis, task) in enumerate(zip(axes, tasks, strict=True)):
        found = results.curves[task]
        middles = {variant: band(runs) for variant, runs in found.runs.items() if variant in looks}
        low, high = limits([Shown(middle.centre, np.concatenate(middle[1:])) for middle in middles.values()])
        if (game := names[task]) in printed.index:
            axis.axhline(printed[game], color=PUBLISHED.colour, ls=PUBLISHED.dashes, lw=0.8, zorder=1)
            low, high = limits([Shown(np.array([low, high, printed[game]]))])
        for reference in (name for name in references if task in results.raw[name]):
            look = style.REFERENCES[reference]
            axis.axhline(results.raw[reference][task].mean(), color=look.colour, ls=look.dashes, lw=0.8, zorder=1)
        if training is not None and (games := training[training["game"] == game]).size:
            frames, means = in_bins(games, longest)
            axis.plot(frames, means, color=OF_OTHERS.colour, ls=OF_OTHERS.dashes, lw=1)
        for variant, middle in middles.items():
            draw(axis, FRAMES * found.env_steps, middle, looks[variant], banded=True)
        axis.set(ylim=(low, high), title=game, ylabel="" if place % columns else "score")
        steps_axis(axis, longest)
        axis.yaxis.set_major_locator(MaxNLocator(3))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda score, _: short(score)))
        lowest = place + columns >= len(tasks)
        axis.set_xlabel("frames" if lowest else "")
        axis.tick_params(labelbottom=lowest)
        say_leaving(axis, {variant: middle.centre for variant, middle in middles.items()}, low)
    ours = [style.handle(look, variant) for variant, look in looks.items()]
    ours += [style.handle(style.REFERENCES[reference], reference, lw=0.8) for reference in references]
    theirs = [style.handle(PUBLISHED, "PPO after 40M frames, paper’s Table 6", lw=0.8)]
    if training is not None and training["game"].isin(names[tasks]).any():
        theirs.append(style.handle(OF_OTHERS, "Stable-Baselines3’s PPO in training, one published run", lw=1))
    style.say_below(figure, [*ours, *theirs])
    return figure


def in_bins(games: pd.DataFrame, longest: int) -> tuple[Array, Array]:
    """A training run's mean scores over the games that ended in each part of `longest` frames, at the parts' ends."""
    ends = np.linspace(0, longest, BINS + 1)[1:]
    part = np.searchsorted(ends, games["frames"])
    means = games.groupby(part)["score"].mean().reindex(range(BINS))
    return ends, means.to_numpy()


def short(score: float) -> str:
    """1.5k, 20, 0.4: no prefix makes anything smaller."""
    return EngFormatter(sep="")(score) if abs(score) >= 1000 else f"{score:g}".replace("-", "\N{MINUS SIGN}")
