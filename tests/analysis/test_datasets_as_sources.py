"""A dataset is a source like any other, and a report's own cache is no part of one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tools_read import broken, read_one, rows_of

from analysis import atari, collect, report
from analysis.dataset import load, parts_of
from analysis.records import RecordError

MINE = "variant,env,seed,env_step,return,length\nmine,CartPole-v1,0,20,9.5,20\n"


def test_one_s_own_numbers_stand_beside_a_dataset(out: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(MINE)
    sources = [f"csv:{tmp_path / 'mine.csv'}", str(out)]
    assert collect.main([*sources, "--out", str(tmp_path / "beside")]) == 0
    found, ours = load(tmp_path / "beside"), load(out)
    assert list(found.runs["run"])[1:] == list(ours.runs["run"])
    assert found.read("episodes")["return"].tolist() == [9.5, *ours.read("episodes")["return"]]
    assert len(found.read("iterations")) == len(ours.read("iterations"))


def test_a_source_without_runs_is_refused_by_name(trained: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "empty").mkdir()
    assert f"no finished run in {tmp_path / 'empty'}" in refused(trained, tmp_path / "empty")


def test_a_report_s_cache_is_no_part(records: Path) -> None:
    collect.collect([str(records)], records, records / "datasets" / "records", [])
    assert parts_of(records) == [records]


@pytest.mark.parametrize("harm", ["a list", "cut", "no column"])
def test_a_damaged_dataset_is_one_sentence(out: Path, harm: str) -> None:
    path = out / "episodes.parquet"
    if harm == "a list":
        (out / "dataset.json").write_text("[]")
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    else:
        shutil.copy(out / "iterations.parquet", path)
    with pytest.raises(RecordError, match="collect it again"):
        load(out)


def test_a_full_disk_leaves_nothing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(collect.pq.ParquetWriter, "write_table", full)
    assert collect.main([str(trained), "--out", str(tmp_path / "a" / "b")]) == 2
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"
    assert not (tmp_path / "a").exists()


def test_arrays_that_unpack_to_too_much_are_not_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "evaluations.npz", timesteps=[1], results=np.zeros((1, 40_000_000)))
    assert "more than 256 are not read" in broken(f"evaluations:{tmp_path},env=A-v1")


def test_an_evaluation_before_training_is_no_step_back(tmp_path: Path) -> None:
    np.savez(tmp_path / "evaluations.npz", timesteps=[0, 10], results=[[5.0], [7.0]], ep_lengths=[[1], [2]])
    assert rows_of(read_one(f"evaluations:{tmp_path},env=A-v1")) == [(10, 7.0, 2)]


def test_a_setting_of_null_is_as_good_as_absent() -> None:
    assert collect.settings(json.dumps({"algo": {"a": 1, "b": None}})) == collect.settings('{"algo": {"a": 1}}')


def test_a_page_of_a_folder_of_records_is_the_same_the_second_time(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first call leaves a dataset in the folder, which the second must not take for the runs."""
    pages, sentences = [], []
    for number in range(2):
        out = tmp_path / f"page{number}"
        assert report.main([str(records), "--records", str(records), "--out", str(out), "--missing", "mark"]) == 0
        pages.append((out / "report.md").read_text().partition("\n")[2])
        capsys.readouterr()
        assert atari.main([str(records), "--records", str(records), "--out", str(tmp_path / "atari")]) == 2
        sentences.append(capsys.readouterr().err)
    assert any((records / "datasets").glob("*/dataset.json")), "it is there to be mistaken"
    assert pages[0] == pages[1]
    assert sentences[0] == sentences[1] and sentences[0].count("\n") == 1 and "Traceback" not in sentences[0]
