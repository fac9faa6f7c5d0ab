"""Whether a figure's text can be read: none overlaps another, none leaves the canvas."""

import itertools
from collections.abc import Iterator

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def visible_texts(figure: Figure) -> Iterator[Text]:
    """What is drawn: matplotlib keeps labels of ticks that lie outside an axis."""
    yield from figure.texts
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            yield from labels_of(axis)
        yield from (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts)
    for legend in [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]:
        yield from (legend.get_title(), *legend.get_texts())


def labels_of(axis: Axis) -> Iterator[Text]:
    low, high = sorted(axis.get_view_interval())
    for tick in axis.get_major_ticks():
        if low <= tick.get_loc() <= high:
            yield from (label for label in (tick.label1, tick.label2) if label.get_visible())


def assert_legible(name: str, figure: Figure) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    frame = figure.bbox
    boxes = [
        (text, text.get_window_extent(canvas.get_renderer()))
        for text in visible_texts(figure)
        if text.get_text().strip() and text.get_visible()
    ]
    for text, box in boxes:
        inside = frame.x0 <= box.x0 and frame.y0 <= box.y0 and box.x1 <= frame.x1 and box.y1 <= frame.y1
        assert inside, f"{name}: {text.get_text()} leaves the canvas"
    for (first, a), (second, b) in itertools.combinations(boxes, 2):
        slanted = first.get_rotation() % 90 and second.get_rotation() % 90  # boxes overlap, letters do not
        apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
        assert apart or slanted, f"{name}: {first.get_text()} overlaps {second.get_text()}"
