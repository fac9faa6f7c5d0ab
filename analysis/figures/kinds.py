"""Which figures a report has: what each shows, and which datasets permit it."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from matplotlib.figure import Figure

from analysis.figures import captions, style
from analysis.figures.curves import averageable, curves, efficiency
from analysis.figures.profiles import by_objective, multiverse
from analysis.figures.scores import heatmap, intervals, profile
from analysis.records import RecordError
from analysis.results import Results


class Kind(NamedTuple):
    """A figure: its title and caption, whether a dataset permits it, and the function that draws it."""

    title: str
    caption: Callable[[Results], str]
    permitted: Callable[[Results], bool]
    draw: Callable[[Results], Figure]


def made(results: Results) -> Iterator[tuple[str, str, str, Figure]]:
    """Name, title, caption and figure of all that the dataset permits and its study asks for."""
    wanted = results.dataset.note.get("study", {}).get("figures") or list(FIGURES)
    if unknown := [name for name in wanted if name not in FIGURES]:
        raise RecordError(f"there is no figure {', '.join(unknown)}; choose among {', '.join(FIGURES)}")
    style.use()
    for name, kind in FIGURES.items():
        if name in wanted and kind.permitted(results):
            yield name, kind.title, kind.caption(results), kind.draw(results)


FIGURES = {
    "curves": Kind("Learning curves", captions.curves, lambda results: bool(results.trained), curves),
    "efficiency": Kind("Score against env steps", captions.efficiency, averageable, efficiency),
    "profile": Kind("Performance profiles", captions.profile, averageable, profile),
    "intervals": Kind(
        "Scores and their intervals", captions.intervals, lambda results: bool(results.trained), intervals
    ),
    "heatmap": Kind("Scores by task", captions.heatmap, lambda results: len(results.trained) > 1, heatmap),
    "multiverse": Kind("Across profiles", captions.multiverse, lambda results: bool(by_objective(results)), multiverse),
}
"""Every figure by its name, in the order of a report."""
