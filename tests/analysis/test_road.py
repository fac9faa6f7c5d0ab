"""The figures of the road to PPO and of the paper's Figure 3: what they draw is the dataset's and the published."""

from pathlib import Path

import invented
import numpy as np
import pytest
from legible import assert_legible

from analysis.dataset import load
from analysis.figures import figure3, ladder, style
from analysis.paper import published
from analysis.results import Results

STEPS = 40_960


@pytest.fixture(autouse=True)
def look() -> None:
    style.use()


def results(folder: Path, variants: tuple[str, ...], tasks: tuple[str, ...]) -> Results:
    written = invented.write(folder, np.random.default_rng(0), (*variants, "random"), tasks, 4, STEPS)
    return Results(load(written))


def test_a_panel_per_rung_and_task_with_its_curve_before_the_others(tmp_path: Path) -> None:
    tasks = ("Hopper-v4", "InvertedPendulum-v4")
    found = results(tmp_path / "dataset", tuple(ladder.RUNGS), tasks)
    figure = ladder.ladder(found)
    assert_legible("road", figure)
    panels = figure.axes
    assert [axis.get_title() for axis in panels] == list(ladder.RUNGS.values()) * 2
    for axis, task in ((panels[3], tasks[0]), (panels[-1], tasks[1])):
        name = list(ladder.RUNGS)[panels.index(axis) % 12]
        bold = [line for line in axis.lines if line.get_color() == ladder.COLOUR]
        assert len(bold) == 1 and len(axis.lines) == len(ladder.RUNGS) + 1  # all rungs, and the random policy
        np.testing.assert_allclose(bold[0].get_ydata(), found.curves[task].runs[name].mean(axis=0))


def test_published_readings_stand_beside_the_curves(tmp_path: Path) -> None:
    readings = published.figure3()
    assert set(readings.index) == set(published.TASKS)
    assert readings.loc["Hopper", "a2c"] == 900  # as printed by the Tianshou authors: ~900, ~0, ~108
    assert readings.loc["HalfCheetah", "trpo"] == 0
    assert readings.loc["Swimmer", "clip_0.2"] == 108
    found = results(tmp_path / "dataset", tuple(figure3.LEGEND), tuple(invented.TASKS))
    found.curves["Hopper-v4"].runs["cem"][0] *= 3  # far above the means
    figure = figure3.figure3(found)
    assert_legible("road", figure)
    panel = next(axis for axis in figure.axes if axis.get_title() == "Hopper-v4")
    marks = {line.get_color(): line.get_ydata()[0] for line in panel.lines if line.get_marker() == "<"}
    assert marks == {figure3.LEGEND[variant][1]: readings.loc["Hopper", variant] for variant in readings}
    low, high = panel.get_ylim()
    assert all(low < value < high for line in panel.lines for value in line.get_ydata()[np.isfinite(line.get_ydata())])
    bold = {line.get_color(): line for line in panel.lines if line.get_linewidth() > 1 and line.get_marker() != "<"}
    for variant, (_, colour) in figure3.LEGEND.items():
        np.testing.assert_allclose(bold[colour].get_ydata(), found.curves["Hopper-v4"].runs[variant].mean(axis=0))
