"""A disk that is full, or a reader that has gone, under the commands that show, send and stop."""

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from experiments import sync
from experiments.files import as_json, write_durably
from experiments.identity import code_id
from experiments.jobs import slurm
from experiments.jobs.launch import Launch, freeze_launch
from experiments.manifest import freeze
from experiments.records.claims import Taken, claim_all
from tests.conftest import ROOT, small_run, train
from tests.experiments.test_packs import entries_of

RUN = small_run(iterations=1, env="CartPole-v1")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one finished run with a log."""
    records = tmp_path_factory.mktemp("records")
    train([RUN], records)
    entries = entries_of(RUN)
    study = records / "studies" / "one"
    freeze(study, entries, extend=False)
    head = {"cluster": "local", "array_size": None, "overrides": [], "config_dir": [], "parts": None}
    launch = freeze_launch(study, [[[entry.run_id for entry in entries]]], head)
    launch.log(0).write_text("its words\n" * 1000)
    (study / "study.json").write_bytes(as_json({"code_id": code_id()}))
    return records


COMMANDS = [
    ["status", "one"], ["status", "one", "--json"], ["status", "one", "--watch"], ["cancel", "one"],
    ["logs", "CartPole", "--lines=1000"],
]  # fmt: skip


def command(records: Path, words: Sequence[str], out: int) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", f"experiments.{words[0]}", *words[1:], f"--records={records}"]
    return subprocess.run(line, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_words_that_nothing_takes_are_one_sentence(words: Sequence[str], records: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = command(records, words, full.fileno())
    said = [line for line in done.stderr.splitlines() if not line.endswith(".log")]  # logs names its file there
    assert (done.returncode, said) == (2, ["error: the disk is full (standard output)"])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_reader_that_has_gone_is_no_error(words: Sequence[str], records: Path) -> None:
    """As behind `| head`."""
    read, write = os.pipe()
    os.close(read)
    done = command(records, words, write)
    os.close(write)
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if not line.endswith(".log")] == []


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_that_could_not_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(tmp_path / "file", b"new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_a_claim_that_could_not_be_signed_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so are those made in the same breath."""
    (first,) = claim_all([tmp_path / "first"])
    assert not isinstance(first, Taken)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        claim_all([tmp_path / "second"])
    assert [path.name for path in tmp_path.iterdir()] == ["first-1"]


def test_what_is_queued_is_known_although_it_cannot_be_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cancel` must find the jobs, and `status` may look at another user's records."""
    launch = Launch(tmp_path)
    slurm.note(launch, [slurm.Part("ppo-x-1-0-1a2b", 0, 1)])
    monkeypatch.setattr(slurm, "ask", lambda *_: "77\n")
    monkeypatch.setattr(slurm, "write_durably", full)
    assert [part.job for part in slurm.reconcile(launch)] == ["77"]


def test_records_on_a_full_disk_are_not_sent_and_nothing_is_left_there(
    records: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path for path in records.rglob("*") if path.is_file()}
    monkeypatch.setattr(sys, "argv", ["sync", str(records)])
    monkeypatch.setattr(sync, "drop_settings_of_others", lambda: None)
    monkeypatch.setattr(sync, "leave", sys.exit)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit) as left:
        sync.main()
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: the disk is full ({records}/wandb/claims/")
    assert {path for path in records.rglob("*") if path.is_file()} == before
    assert not list(records.glob("wandb/claims/*"))
