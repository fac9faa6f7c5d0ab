"""Which run a name means. The records hold runs s1, s10 and s0 of one setting on two tasks."""

import shutil
from pathlib import Path

import pytest

from experiments.records.find import find_run
from ppo.refusals import UserError


@pytest.fixture
def records(tmp_path: Path) -> Path:
    for code in ("aaaaaaaaaaaa/Hopper-v4-clip_0.2.s{}-{}", "bbbbbbbbbbbb/Swimmer-v4-clip_0.2.s{}-{}"):
        for seed, run in (("0", "0a0000000000"), ("1", "1b0000000000"), ("10", "1c0000000000")):
            attempt = tmp_path / "runs" / code.format(seed, run) / "attempt-1"
            attempt.mkdir(parents=True)
            (attempt / "episodes.csv").touch()
            (attempt.parent / "config.json").touch()
    return tmp_path


def folder_of(records: Path) -> Path:
    return records / "runs/aaaaaaaaaaaa/Hopper-v4-clip_0.2.s1-1b0000000000"


@pytest.mark.parametrize(
    "name", ["Hopper-v4-clip_0.2.s1", "Hopper-v4-clip_0.2.s1-1b", "Hopper-v4-clip_0.2.s1-1b0000000000"]
)
def test_the_beginning_of_a_name_finds_its_run(records: Path, name: str) -> None:
    assert find_run(name, records) == folder_of(records)


def test_the_beginning_of_an_id_finds_its_run(records: Path) -> None:
    shutil.rmtree(records / "runs/bbbbbbbbbbbb")
    assert find_run("1b", records) == folder_of(records)


@pytest.mark.parametrize("inside", ["", "attempt-1", "attempt-1/episodes.csv", "config.json"])
def test_a_path_to_or_into_a_run_finds_it(records: Path, inside: str) -> None:
    assert find_run(str(folder_of(records) / inside), Path("elsewhere")) == folder_of(records)


def test_a_folder_that_holds_one_run_finds_it(records: Path) -> None:
    for name in ("Hopper-v4-clip_0.2.s0-0a0000000000", "Hopper-v4-clip_0.2.s10-1c0000000000"):
        shutil.rmtree(records / "runs/aaaaaaaaaaaa" / name)
    assert find_run(str(records / "runs/aaaaaaaaaaaa"), Path("elsewhere")) == folder_of(records)


def test_an_ambiguous_name_lists_its_candidates(records: Path) -> None:
    with pytest.raises(UserError, match=r"Hopper could be .*s0-0a.*s1-1b.*s10-1c") as refusal:
        find_run("Hopper", records)
    assert "Swimmer" not in str(refusal.value)


def test_a_folder_of_several_runs_lists_them(records: Path) -> None:
    with pytest.raises(UserError, match=r"could be .*s0-0a0000000000.*s10-1c0000000000"):
        find_run(str(records / "runs"), Path("elsewhere"))


def test_a_misspelt_name_gets_near_ones(records: Path) -> None:
    with pytest.raises(UserError, match=r"called so, did you mean Hopper-v4-clip_0\.2\.s1"):
        find_run("Hoper-v4-clip_0.2.s1", records)


def test_no_records_are_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"none of the 0 in {tmp_path}"):
        find_run("Hopper", tmp_path)
