"""Curves show what the records say, and half-written records are read as far as they go."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.plot import curve, draw, labels, main, scores
from analysis.records import RecordError, find_runs
from experiments.records.record import Attempt, Record
from tests.conftest import ROWS, Killed, named, small_run, train


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    train([small_run(seed, 8, algo=ROWS[row]) for seed in range(2) for row in (0, 2)], folder)
    return folder


def test_a_curve_is_the_mean_of_the_last_100_episodes_at_each_env_step(records: Path) -> None:
    for run in find_runs([records]):
        episodes = run.episodes()
        assert len(episodes) > 150
        for env_step, value in curve(run).items():
            finished = episodes[episodes["env_step"] <= env_step]["return"].to_numpy()[-100:]
            expected = finished.mean() if finished.size else np.nan
            np.testing.assert_allclose(value, expected, rtol=1e-9)
        assert run.done is not None
        np.testing.assert_allclose(curve(run).iloc[-1], run.done["score"], rtol=1e-9)


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
    assert curve(seen).loc[: 3 * 256].notna().any()
    assert curve(seen).loc[4 * 256 + 1 :].isna().all()


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
