"""A run's folder says what is in it, a score is one thing on both sides, and what newer code wrote is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.records import RecordError, find_runs
from experiments.files import as_json
from experiments.records import schema
from experiments.records.record import Record, read_done
from ppo.pack import Pack
from ppo.refusals import UserError
from ppo.train import train as learn
from tests.conftest import named, small_run, train

RUN = small_run(0, 2, "CartPole-v1", profile={"horizon": 64, "minibatch_size": 32})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    train([RUN], tmp_path)
    return Record(tmp_path, *named([RUN])).folder


def content(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_a_folder_explains_its_columns_and_keys(folder: Path) -> None:
    said = content(folder / "schema.json")
    for name in ("episodes.csv", "iterations.csv", "timing.csv"):
        first, *rows = (folder / "attempt-1" / name).read_text().splitlines()
        assert list(said[name]) == first.split(",") and rows
        for column, about in said[name].items():
            cells = [row.split(",")[list(said[name]).index(column)] for row in rows]
            values = np.array([cell or "nan" for cell in cells]).astype(about["kind"])
            assert about["unit"] and about["meaning"] and len(values) == len(rows)
    for name in ("config.json", "done.json"):
        assert content(folder / name).keys() <= said[name].keys()
    assert said["format"] == content(folder / "config.json")["format"] == 1
    assert content(folder / "done.json")["status"] in said["status"]


def test_what_an_update_measures_has_a_column_each() -> None:
    pack = Pack([small_run(0, 1)])
    assert next(iter(learn(pack))).metrics.keys() == schema.DIAGNOSTICS.keys()


def test_no_column_has_two_kinds() -> None:
    for columns in schema.COLUMNS.values():
        assert {name: column.kind for name, column in columns.items()}.items() <= schema.KINDS.items()


@pytest.mark.parametrize(
    ("returns", "status", "expected"),
    [
        ([1.0] * 7 + [0.1 * n for n in range(100)], "complete", 4.95),  # the last 100 of 107
        ([3.0, 4.5], "diverged", 3.75),
        ([], "complete", None),
        ([1.0, float("inf")], "diverged", None),
        ([1.0, float("nan")], "diverged", None),
        ([1.5e308, 1.5e308], "complete", None),  # whose sum is no finite number
        ([float("inf"), *[2.0] * 100], "complete", 2.0),
        ([3.0, 4.5], "faulty", None),
    ],
)
def test_a_score_is_the_mean_of_the_last_100_returns(returns: list[float], status: str, expected: float | None) -> None:
    assert schema.score(returns, status) == (expected if expected is None else pytest.approx(expected, rel=1e-15))


def test_whole_numbers_are_told_from_others_at_any_depth() -> None:
    settings = {"seed": 3, "algo": {"beta": 1.0, "on": True, "n_step": 5, "none": None}, "env": {"id": "x"}}
    assert schema.whole_numbers(settings) == ["n_step", "seed"]


def trained_again(folder: Path) -> None:
    (folder / "done.json").unlink()
    train([RUN], folder.parent.parent.parent)


@pytest.mark.parametrize("said", [2, "1", None])
@pytest.mark.parametrize(
    ("reader", "refusal"),
    [(read_done, UserError), (trained_again, UserError), (lambda folder: find_runs([folder]), RecordError)],
)
def test_a_record_of_a_newer_format_is_refused(
    reader: Callable[[Path], object], refusal: type[Exception], said: Any, folder: Path
) -> None:
    (folder / "config.json").write_bytes(as_json(content(folder / "config.json") | {"format": said}))
    with pytest.raises(refusal, match=rf"is of newer code: it has format {said!r}, and this code reads .* up to 1"):
        reader(folder)


def test_a_record_of_older_code_says_no_format(folder: Path) -> None:
    head, done = (content(folder / name) for name in ("config.json", "done.json"))
    head.pop("format")
    for name in ("sha256", "config_sha256"):
        done.pop(name)
    (folder / "config.json").write_bytes(as_json(head))
    (folder / "done.json").write_bytes(as_json(done))
    (folder / "schema.json").unlink()
    assert read_done(folder) == done
    (run,) = find_runs([folder])
    assert run.done == done and run.variant == "clip_0.2"
