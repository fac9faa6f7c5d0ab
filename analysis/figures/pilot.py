"""Which implementation gives the paper's Table 1? A row per implementation of the study `pilot`, the nearest first:
the scores of its settings beside those that the paper prints."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from analysis.dataset import Dataset
from analysis.figures import style
from analysis.figures.scores import MEAN, PAPER
from analysis.paper import published
from analysis.pilot import SCALE, bent, ranked, settings_of
from analysis.tables import number, span

TICKS = (-10_000, -1000, -100, -10, -1, 0, 1)
MARGIN = 0.3  # on the axis of distances


def pilot(dataset: Dataset) -> Figure:
    """The axis is the distance's own: asinh(score / 0.2). Drawn and written are the values of `analysis.pilot`."""
    found = ranked(dataset.runs)
    settings = settings_of(found)
    looks, printed = style.looks(settings), published.table1()["score"][settings]
    figure = Figure(figsize=(style.PAGE, 0.9 + 0.25 * len(found)), layout="constrained")
    axis = figure.add_subplot(xlabel=f"normalised score (0: random policy, 1: best variant), asinh(score / {SCALE})")
    rows = np.arange(len(found))
    for name in settings:
        axis.plot(bent(found[name]), rows, color=looks[name].colour, **MEAN)
        axis.plot(bent(printed[name]), -1, **PAPER | {"mfc": looks[name].colour})
        axis.axvline(float(bent(printed[name])), color=looks[name].colour, lw=0.7, alpha=0.6, zorder=1)
    for row, line in found.iterrows():
        say(axis, row, f"{number(line['distance'])}  {span(line['low'], line['high'])}")
    say(axis, -1, "distance")
    shown = bent(np.array([*found[settings].to_numpy().ravel(), *printed]))
    axis.set(xlim=(shown.min() - MARGIN, shown.max() + MARGIN), ylim=(len(found) - 0.5, -1.6))
    axis.xaxis.set_major_locator(FixedLocator(list(bent(np.array(TICKS)))))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda place, _: number(SCALE * np.sinh(place), 0)))
    axis.set_yticks([-1, *rows], ["published (7 tasks)", *found["implementation"]])
    axis.grid(axis="y", visible=False)
    style.say_below(figure, [style.handle(looks[name], name, **MEAN) for name in settings])
    return figure


def say(axis: Axes, row: float, words: str) -> None:
    """At the right of a row, outside the panel."""
    axis.annotate(words, (1, row), (8, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center")
