"""Copies that a person made, and files left half written, stand in nobody's way."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from experiments.agent import Agent
from experiments.files import as_json
from experiments.identity import code_id
from experiments.jobs.launch import freeze_launch, launches_of
from experiments.jobs.standing import Standing
from experiments.jobs.survey import look
from experiments.jobs.task import Supervisor
from experiments.manifest import freeze
from experiments.records.claims import owner
from experiments.records.record import Attempt, Record
from experiments.tracking.reading import Source
from ppo.refusals import UserError
from tests.conftest import Killed, named, promised, small_run, train
from tests.experiments.test_packs import entries_of

RUN = small_run(iterations=4)


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of one run, killed after its third iteration's checkpoint."""
    study = tmp_path / "studies" / "one"
    freeze(study, entries_of(RUN), extend=False)
    (study / "study.json").write_bytes(as_json({"code_id": code_id()}))
    freeze_launch(study, [[[entries_of(RUN)[0].run_id]]], {"cluster": "local", "array_size": None})
    original = Attempt.append

    def dies(self: Attempt, *arguments: Any) -> None:
        if arguments[0].number == 4:
            raise Killed
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "append", dies)
        with pytest.raises(Killed):
            train([RUN], tmp_path)
    return tmp_path


@pytest.fixture
def cluttered(records: Path) -> Path:
    """The same with copies of its attempt, its checkpoint and its launch, and what NFS leaves of a file in use."""
    attempt = Record(records, *named([RUN])).attempt_folder(1)
    shutil.copy(attempt / "checkpoint-000003.pt", attempt / "checkpoint-000003 (1).pt")
    for name in ("attempt-1 (copy)", "attempt-1.bak", "attempt-"):
        shutil.copytree(attempt, attempt.with_name(name))
    launches = records / "studies/one/launches"
    shutil.copytree(launches / "1", launches / "1 (copy)")
    (launches / ".nfs0001").touch()
    return records


def standing(records: Path) -> Standing:
    ((_, stand),) = look(records / "studies/one")
    return stand


def test_a_run_goes_on_beside_copies(cluttered: Path, undisturbed: Any) -> None:
    record, said = Record(cluttered, *named([RUN])), []
    train([RUN], cluttered, said=said)
    assert said == [] and promised([RUN], cluttered) == undisturbed([RUN])
    assert record.attempts() == [2, 1]


def test_copies_are_neither_shown_nor_played_nor_mirrored(cluttered: Path) -> None:
    folder = Record(cluttered, *named([RUN])).folder
    assert (standing(cluttered).state, standing(cluttered).iteration) == ("stopped", 3)
    assert Agent(folder).state["iteration"] == 3
    assert Source(folder).covered() == (folder / "attempt-1", 3)


def test_copies_are_no_launches_and_no_progress(cluttered: Path) -> None:
    study = cluttered / "studies/one"
    (launch,) = launches_of(study)
    assert launch.folder.name == "1"
    assert Supervisor(launch, 0).progress() == [3]
    head = {"cluster": "local", "array_size": None}
    assert freeze_launch(study, launch.tasks(), head).folder == study / "launches/2"
    assert [launch.folder.name for launch in launches_of(study)] == ["2", "1"]


@pytest.mark.parametrize("content", [b"\xff\xfe\n\xff,1,1,1,1,1\n", b"1,1,1,1,1,1\n2,1,1,x,1,1\n", b"7x,1,1,1,1,1\n"])
def test_a_garbled_timing_is_shown_as_nothing_reached(content: bytes, records: Path) -> None:
    (Record(records, *named([RUN])).attempt_folder(1) / "timing.csv").write_bytes(content)
    assert standing(records) == Standing("stopped", 0)


@pytest.mark.parametrize("left", [b"", b'{"host": "node'])
def test_a_cut_name_of_an_owner_is_nobodys_and_no_checkpoint_is_lost(
    left: bytes, records: Path, undisturbed: Any
) -> None:
    record, said = Record(records, *named([RUN])), []
    (record.attempt_folder(1) / "owner.json").write_bytes(left)
    assert standing(records) == Standing("stopped", 3)
    train([RUN], records, said=said)
    assert said == [] and promised([RUN], records) == undisturbed([RUN])
    second = (record.attempt_folder(2) / "timing.csv").read_text().splitlines()
    first = (record.attempt_folder(1) / "timing.csv").read_text().splitlines()
    assert second[:4] == first[:4]  # the first three iterations were not trained again


@pytest.mark.parametrize("name", ["config.json", "done.json"])
def test_a_cut_file_of_a_run_is_moved_away_and_made_anew(name: str, records: Path, undisturbed: Any) -> None:
    record = Record(records, *named([RUN]))
    if name == "done.json":
        train([RUN], records)
        (record.attempt_folder(2) / "owner.json").write_bytes(as_json(owner() | {"pid": -1}))  # not this process
    (record.folder / name).write_text("{")
    with pytest.raises(UserError, match=rf"{name} is not readable JSON .*; move this file away, not its folder"):
        train([RUN], records)
    (record.folder / name).rename(records / "away")
    train([RUN], records)
    assert (record.folder / name).exists() and promised([RUN], records) == undisturbed([RUN])


def test_a_cut_study_file_is_one_sentence(records: Path) -> None:
    (records / "studies/one/study.json").write_text('{"code_id": ')
    with pytest.raises(UserError, match=r"study\.json is not readable JSON"):
        standing(records)
