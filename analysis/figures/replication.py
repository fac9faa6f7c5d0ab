"""The paper's Table 1 as a picture: each published score beside ours, and among re-runs of the paper's 3 seeds."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.scores import INTERVAL, MEAN, estimate, label, paper, paper_key
from analysis.figures.style import Shown, limits
from analysis.findings import setting, table1
from analysis.paper import published
from analysis.results import Results
from analysis.statistics import LEVEL
from analysis.tables import number

COLUMNS = {"paper": 30, "ours": 62, "verdict": 72}  # points right of the panel; numbers end there, words begin
ENDS = ("interval_low", "interval_high", "prediction_low", "prediction_high")


def replication(results: Results) -> Figure:
    """A row per row of Table 1, in its order; those without runs show what was published. What is drawn and written is
    the data of `findings.table1`."""
    printed = published.table1()
    found = table1(results).values.set_index("variant").reindex(printed.index)
    figure = Figure(figsize=(style.PAGE, 1 + 0.32 * len(printed)), layout="constrained")
    axis, colours = figure.add_subplot(xlabel=label(results)), style.colours(list(printed.index))
    ours, ends = found["ours"], found[list(ENDS)].to_numpy()
    shown = [Shown(np.array([score])) for score in printed["score"]]
    low, high = limits([*shown, *(Shown(np.array([mean]), own) for mean, own in zip(ours, ends, strict=True))])
    low = min(low, printed["score"].min() - 0.05)
    for name in COLUMNS:
        write(axis, -0.9, name, name)
    for row, variant in enumerate(printed.index):
        estimate(axis, row, ours[variant], ends[row, :2], colours[variant], low)
        paper(axis, row, printed.loc[variant, "score"], ends[row, 2:])
        write(axis, row, "paper", number(printed.loc[variant, "score"]))
        write(axis, row, "ours", number(ours[variant]))
    for row, words in enumerate(found["verdict"].fillna("no runs yet")):
        write(axis, row, "verdict", words.replace(", ", ",\n"))
    axis.set(xlim=(low, high), ylim=(len(printed) - 0.4, -0.5))
    axis.set_yticks(np.arange(len(printed)), [setting(row) for _, row in printed.iterrows()])
    axis.grid(axis="y", visible=False)
    ink = style.Look(style.INK, "-")
    handles = [style.handle(ink, "ours", **MEAN), style.handle(ink, f"{LEVEL:.0%} interval of our mean", **INTERVAL)]
    style.say_below(figure, [*handles, *paper_key()])
    return figure


def write(axis: Axes, row: float, column: str, words: str) -> None:
    """A cell right of the panel."""
    axis.annotate(
        words, (1, row), (COLUMNS[column], 0), xycoords=("axes fraction", "data"), textcoords="offset points",
        ha="left" if column == "verdict" else "right", va="center", annotation_clip=False, linespacing=0.95,
    )  # fmt: skip
