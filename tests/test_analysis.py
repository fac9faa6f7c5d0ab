"""Curves show what the records say, and half-written records are read as far as they go."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.lines import Line2D

from analysis.collect import collect
from analysis.curves import learning_curves
from analysis.dataset import load
from analysis.plot import curves_of, draw, labels, main, scores
from analysis.records import RecordError, Run, find_runs
from experiments.records.record import Attempt, Record
from tests.conftest import ROWS, Killed, named, small_run, train


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    train([small_run(seed, 8, algo=ROWS[row]) for seed in range(2) for row in (0, 2)], folder)
    return folder


def drawn(runs: Sequence[Run]) -> dict[str, list[Line2D]]:
    """The lines of the first panel, by colour: a line per run, then their mean."""
    lines: dict[str, list[Line2D]] = {}
    for line in draw(runs).axes[0].lines:
        lines.setdefault(line.get_color(), []).append(line)
    return lines


def test_a_curve_has_the_mean_return_of_the_episodes_that_end_in_each_bin(records: Path) -> None:
    runs = find_runs([records])
    for variant, lines in zip(("clip_0.2", "unconstrained"), drawn(runs).values(), strict=True):
        group = [run for run in runs if run.variant == variant]
        for run, line in zip(group, lines, strict=False):
            episodes = run.episodes()
            ends = line.get_xdata()
            assert len(episodes) > 150 and len(ends) in (10, 20, 25, 50, 100) and ends[-1] == run.config["env_steps"]
            bins = pd.cut(episodes["env_step"] - 1, [0, *ends], right=False)  # where the last step of each began
            wanted = episodes.groupby(bins, observed=False)["return"].mean()
            np.testing.assert_allclose(line.get_ydata(), wanted, rtol=1e-9)
        thin = np.array([line.get_ydata() for line in lines[:-1]])
        np.testing.assert_allclose(lines[-1].get_ydata(), thin.mean(axis=0))


def test_records_and_the_dataset_of_them_have_the_same_curves(records: Path, tmp_path: Path) -> None:
    collect([str(records)], records, tmp_path / "dataset", ())
    dataset = load(tmp_path / "dataset")
    theirs = learning_curves(dataset, dataset.runs)
    runs = find_runs([records])
    ours = curves_of(runs, labels(runs))
    assert ours.keys() == theirs.keys() == {"InvertedPendulum-v4"}
    for found, wanted in zip(ours.values(), theirs.values(), strict=True):
        np.testing.assert_array_equal(found.env_steps, wanted.env_steps)
        assert found.runs.keys() == wanted.runs.keys() == {"clip_0.2", "unconstrained"}
        for name, values in found.runs.items():
            np.testing.assert_array_equal(values, wanted.runs[name])


def test_there_is_a_bold_line_per_variant_and_a_thin_one_per_seed(records: Path) -> None:
    (axis,) = [axis for axis in draw(find_runs([records])).axes if axis.get_visible()]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "clip_0.2 (2 seeds)",
        "unconstrained (2 seeds)",
    ]
    assert len(axis.lines) == 2 * (2 + 1)
    assert axis.get_xlabel() == "env steps"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"env_steps": 4096}, ["env_steps=2048", "env_steps=4096"]),
        ({"profile": {"hidden_sizes": [8, 8]}}, ["hidden_sizes=[64, 64]", "hidden_sizes=[8, 8]"]),
        ({"profile": {"stepsize": 0.001, "gamma": 0.9}}, ["stepsize=0.0003", "stepsize=0.001"]),
        ({"algo": {"gae_lambda": 0.5}}, ["gae_lambda=0.5", "gae_lambda=0.95"]),
        ({"env": {"max_episode_steps": 50}}, ["max_episode_steps=50", "max_episode_steps=None"]),
        ({"device": "cuda"}, ["device=cpu", "device=cuda"]),
    ],
)
def test_runs_of_one_variant_that_differ_are_no_common_curve(
    records: Path, changes: dict[str, Any], told: list[str]
) -> None:
    clips = [run for run in find_runs([records]) if run.variant == "clip_0.2"]
    others = []
    for run in clips:
        parts = {name: run.config[name] | new if isinstance(new, dict) else new for name, new in changes.items()}
        others.append(replace(run, folder=run.folder / "other", config=run.config | parts))
        others[-1].__dict__["episodes"] = run.episodes
    (axis,) = draw([*clips, *others]).axes
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend == [f"clip_0.2, {each} (2 seeds)" for each in told]
    assert list(scores([*clips, *others])["count"]) == [2, 2]


def test_a_field_that_older_records_lack_tells_nothing(records: Path) -> None:
    first, second = (run for run in find_runs([records]) if run.variant == "clip_0.2")
    profile = {name: value for name, value in first.config["profile"].items() if name != "lost_life"}
    older = replace(first, config=first.config | {"profile": profile})
    assert set(labels([older, second]).values()) == {"clip_0.2"}


def test_a_run_that_is_there_twice_is_no_second_seed(records: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(records, tmp_path / "copy")
    assert main([str(records), str(tmp_path / "copy"), "--out", str(tmp_path / "curves.png")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "are the same run" in said and str(tmp_path / "copy") in said
    assert not (tmp_path / "curves.png").exists()


def test_many_curves_have_a_colour_each_and_names_are_no_formulas(records: Path) -> None:
    first = find_runs([records])[0]
    runs = [replace(first, folder=Path(str(each)), variant=rf"$\nothing{each}$") for each in range(12)]
    for run in runs:
        run.__dict__["episodes"] = first.episodes
    figure = draw(runs)
    figure.draw_without_rendering()
    assert len({line.get_color() for line in figure.axes[0].lines}) == 12


def test_scores_are_over_seeds(records: Path) -> None:
    runs = find_runs([records])
    table = scores(runs)
    for variant in ("clip_0.2", "unconstrained"):
        values = [run.done["score"] for run in runs if run.variant == variant and run.done]
        expected = [2, np.mean(values), np.std(values, ddof=1), min(values), max(values)]
        np.testing.assert_allclose(table.loc[("InvertedPendulum-v4", variant)], expected)


def test_any_folder_inside_the_records_will_do(records: Path) -> None:
    one = find_runs([records])[0].folder
    assert [run.folder for run in find_runs([one])] == [one]
    assert len(find_runs([records, one])) == 4


def test_a_run_in_training_is_drawn_as_far_as_it_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run(0, 8)
    original = Attempt.append

    def dies(self: Attempt, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        if arguments[0].number == 4:  # type: ignore[attr-defined]
            raise Killed

    monkeypatch.setattr(Attempt, "append", dies)
    with pytest.raises(Killed):
        train([run], tmp_path)
    file = Record(tmp_path, *named([run])).attempt_folder(1) / "episodes.csv"
    whole = pd.read_csv(file)
    with file.open("a") as half_a_row:
        half_a_row.write("1024,3")
    (seen,) = find_runs([tmp_path])
    pd.testing.assert_frame_equal(seen.episodes(), whole)
    (curves,) = curves_of([seen], labels([seen])).values()
    (values,) = curves.runs["clip_0.2"]
    width = curves.env_steps[0]
    np.testing.assert_array_equal(np.isfinite(values), curves.env_steps < whole["env_step"].max() + width)


def test_the_command_writes_a_picture_and_refuses_an_empty_folder(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(records), "--out", str(tmp_path / "curves.png")]) == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert main([str(records), "--out", str(tmp_path / "curves.pdf")]) == 2
    assert "give a name that ends in .png" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err.startswith("error: no run under")


def test_a_record_that_is_not_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "run" / "attempt-1").mkdir(parents=True)
    (tmp_path / "run" / "attempt-1" / "episodes.csv").write_text("env_step,return,length\n")
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(RecordError, match="run"):
        find_runs([tmp_path])
