"""How a study stands, read from folders made by hand; its logs; a run made again."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from experiments.cancel import cancel
from experiments.files import as_json, read_json
from experiments.identity import code_id
from experiments.jobs import slurm
from experiments.jobs.launch import freeze_launch
from experiments.jobs.slurm import Queued
from experiments.jobs.standing import Standing, reached
from experiments.jobs.survey import look, look_anyway, queued
from experiments.logs import logs_meant, logs_of
from experiments.manifest import Entry, freeze
from experiments.records.claims import owner
from experiments.rerun import rerun
from experiments.status import as_text, complete, table
from ppo.refusals import UserError
from tests.conftest import small_run, train
from tests.experiments.test_packs import entries_of

RUNS = entries_of(*(small_run(seed=seed, iterations=4, env="CartPole-v1") for seed in range(7)))


def folder(records: Path, entry: Entry) -> Path:
    path = records / "runs" / code_id() / entry.folder_name
    path.mkdir(parents=True, exist_ok=True)
    return path


def attempt(records: Path, entry: Entry, number: int, who: dict[str, object], iterations: int) -> None:
    path = folder(records, entry) / f"attempt-{number}"
    path.mkdir()
    (path / "owner.json").write_bytes(as_json(who))
    (path / "heartbeat").write_text("1\n")
    rows = [f"{i},{100 + 2 * i}.00,3,0.1,0.1,0.1" for i in range(1, iterations + 1)]
    (path / "timing.csv").write_text(
        "iteration,unix_time,pack_size,environment,inference,update\n" + "\n".join(rows) + "\n"
    )


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Seven runs: done, diverged, running here, running elsewhere, stopped, failed, missing."""
    records, path = tmp_path, tmp_path / "studies" / "seven"
    freeze(path, RUNS, extend=False)
    freeze_launch(path, [[[entry.run_id for entry in RUNS]]], {"cluster": "local", "array_size": None})
    (path / "study.json").write_bytes(as_json({"code_id": code_id()}))
    done = {"status": "complete", "score": 12.345, "env_steps": 1024}
    (folder(records, RUNS[0]) / "done.json").write_bytes(as_json(done))
    (folder(records, RUNS[1]) / "done.json").write_bytes(as_json(done | {"status": "diverged", "env_steps": 512}))
    here, dead = owner(), owner() | {"pid": -1}
    elsewhere = here | {"host": "node7", "pid": 12, "slurm_job_id": "99"}
    attempt(records, RUNS[2], 1, here, 3)
    attempt(records, RUNS[3], 2, elsewhere, 1)
    attempt(records, RUNS[4], 1, dead, 2)
    attempt(records, RUNS[5], 1, dead, 1)
    (folder(records, RUNS[5]) / "failed.json").write_bytes(as_json({"error": "ValueError: no"}))
    return path


def test_every_state_is_told_from_its_folder(study: Path) -> None:
    stands = [stand for _, stand in look(study)]
    assert [stand.state for stand in stands] == [
        "done",
        "diverged",
        "running",
        "running",
        "stopped",
        "failed",
        "missing",
    ]
    assert [stand.iteration for stand in stands] == [4, 2, 3, 1, 2, 1, 0]
    assert stands[0].note == "score 12.3"
    assert stands[2].note == f"process {os.getpid()} on {owner()['host']}"
    assert stands[3].note == "process 12 on node7, job 99"
    assert stands[5].note == "ValueError: no"
    assert stands[2].steps_per_second == pytest.approx(3 * 256 / 0.3)  # three runs, 256 env steps in three times 0.1 s


def test_a_run_of_a_faulty_environment_is_complete_and_says_what_was_not_finite(study: Path) -> None:
    seen = {"quantity": "rewards", "env_step": 300}
    done = {"status": "faulty", "score": None, "env_steps": 512, "not_finite": seen}
    (folder(study.parent.parent, RUNS[0]) / "done.json").write_bytes(as_json(done))
    stands = look(study)
    assert stands[0][1] == Standing("faulty", 2, "rewards not finite at env step 300: the environment's fault")
    words = json.loads(as_text(stands))
    assert words["counts"]["faulty"] == 1 and words["runs"][0]["state"] == "faulty"
    assert complete(stands[:2])
    console = Console(width=200)
    with console.capture() as shown:
        console.print(table("seven", stands))
    assert "faulty: CartPole-v1-clip_0.2.s0" in shown.get() and "rewards not finite" in shown.get()


def test_a_heartbeat_elsewhere_that_stopped_is_no_sign_of_life(study: Path) -> None:
    beat = folder(study.parent.parent, RUNS[3]) / "attempt-2" / "heartbeat"
    os.utime(beat, (beat.stat().st_atime, beat.stat().st_mtime - 60))
    assert look(study)[3][1].state == "stopped"


@pytest.mark.parametrize("refusal", [errno.EACCES, errno.EROFS])
def test_records_that_may_only_be_read_are_shown(refusal: int, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = look(study)

    def refused(path: Path, *_: object, **__: object) -> None:
        raise OSError(refusal, os.strerror(refusal), str(path))

    for change in ("touch", "unlink", "write_bytes", "write_text", "mkdir"):
        monkeypatch.setattr(Path, change, refused)
    assert look(study) == told
    assert told[3][1].state == "running"  # by a heartbeat on another machine


def test_runs_that_parts_hold_are_done_and_what_folders_tell_stands(study: Path) -> None:
    """A done, a diverged, a failed and a missing run, all in the parts; and one there by other code."""
    parts = study.parent / "parts"
    for place, (row, code) in enumerate([(0, code_id()), (1, code_id()), (5, code_id()), (6, code_id()), (4, "other")]):
        cell = parts / "CartPole-v1" / f"clip.s{place}-{place}"
        cell.mkdir(parents=True)
        (cell / "dataset.json").write_text("{}")
        pd.DataFrame({"run_id": [RUNS[row].run_id], "code_id": [code]}).to_parquet(cell / "runs.parquet")
    (study / "study.json").write_bytes(as_json({"code_id": code_id(), "parts": str(parts)}))
    stands = [stand for _, stand in look(study)]
    assert [stand.state for stand in stands] == ["done", "diverged", "running", "running", "stopped", "done", "done"]
    assert [stand.note for stand in stands[5:]] == ["in the parts"] * 2
    assert stands[0].note == "score 12.3"
    shutil.rmtree(parts)
    with pytest.raises(UserError, match="there are no parts of a dataset there"):
        look(study)
    told, note = look_anyway(study)
    assert [stand.state for _, stand in told] == [stand.state for stand in stands[:5]] + ["failed", "missing"]
    assert str(parts) in note and note.endswith("runs that only they hold are shown as missing")


def test_json_has_every_run_and_the_counts(study: Path) -> None:
    answer = json.loads(as_text(look(study)))
    assert answer["counts"] == {"done": 1, "diverged": 1, "running": 2, "stopped": 1, "failed": 1, "missing": 1}
    assert [run["run_id"] for run in answer["runs"]] == [entry.run_id for entry in RUNS]
    assert answer["runs"][4] == {
        "run_id": RUNS[4].run_id, "variant": "v", "env": "e", "seed": 4, "state": "stopped", "note": "",
        "iteration": 2, "iterations": 4,
    }  # fmt: skip


def test_the_queue_says_who_is_about_to_start(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = study / "launches/1/launch.json"
    head.write_bytes(as_json(json.loads(head.read_text()) | {"cluster": "slurm", "array_size": 10}))
    part = slurm.Part("ppo-seven-1-0-abcdef01", 0, 1, None)
    slurm.note(slurm.Launch(head.parent), [part])
    answers = {
        ("squeue", "--noheader", "--format=%F", "--name=ppo-seven-1-0-abcdef01"): "77\n",
        (
            "squeue",
            "--me",
            "--noheader",
            "--array",
            "--format=%F|%K|%T|%N|%r|%j",
        ): "77|0|PENDING||Priority|x|y\n8|N/A|R|||\n",
    }
    monkeypatch.setattr(slurm, "ask", lambda *command: answers[command])
    states = {entry.run.config.seed: (stand.state, stand.note) for entry, stand in look(study)}
    assert states[6] == ("queued", "job 77_0 (Priority)")
    assert states[2][0] == "running"
    assert slurm.noted(slurm.Launch(head.parent))[0].job == "77"  # an id that was never noted is found by its name
    head.write_bytes(as_json(json.loads(head.read_text()) | {"code_id": "0" * 12}))
    assert look(study)[6][1].state == "missing", "a job of other code makes another run"


def test_where_squeue_is_silent_the_folders_speak(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told_by_folders = [stand.state for _, stand in look(study)]
    head = study / "launches/1/launch.json"
    head.write_bytes(as_json(json.loads(head.read_text()) | {"cluster": "slurm", "array_size": 10}))
    monkeypatch.setattr(slurm, "ask", lambda *command: None)
    with pytest.raises(slurm.Silent, match="squeue does not answer"):
        look(study)
    stands, note = look_anyway(study)
    assert [stand.state for _, stand in stands] == told_by_folders
    assert json.loads(as_text(stands, note))["note"] == note != ""


def test_a_job_that_runs_but_has_not_begun_a_run_counts_as_running() -> None:
    stand = queued(Standing("missing"), ("77_3", Queued("RUNNING", "n2", "None")))
    assert (stand.state, stand.note) == ("running", "job 77_3 on n2")
    assert queued(Standing("done"), ("77_3", Queued("PENDING", "", "Priority"))).state == "done"


def test_what_a_task_refused_stands_beside_its_runs(study: Path) -> None:
    log = study / "launches/1/logs/0.log"
    told = f"error: device=cuda, but there is no GPU ({log})"
    log.write_text("words\nerror: device=cuda, but there is no GPU\nsrun: error: n1: task 0: Exited with exit code 2\n")
    notes = {stand.state: stand.note for _, stand in look(study)}
    assert (notes["missing"], notes["stopped"], notes["failed"]) == (told, told, "ValueError: no")
    with log.open("a") as file:
        file.write("training\n")  # another turn: what it was refused is past
    assert {stand.state: stand.note for _, stand in look(study)}["missing"] == ""


def test_a_half_written_line_of_timing_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "timing.csv"
    path.write_text(
        "iteration,unix_time,pack_size,environment,inference,update\n7,10.00,2,1,1,1\n8,12.00,2,0.5,0.5,1\n9,14.0"
    )
    assert reached(path, 100) == (8, 100.0)
    assert reached(tmp_path / "none.csv", 100) == (0, 0.0)


def test_a_pause_before_the_last_iteration_does_not_slow_it(tmp_path: Path) -> None:
    path = tmp_path / "timing.csv"
    path.write_text("iteration,unix_time,pack_size,environment,inference,update\n")
    for row in ("7,10.00,2,1,0.5,0.5\n", "8,86412.00,2,1,0.5,0.5\n"):  # a day later
        path.write_text(path.read_text() + row)
        assert reached(path, 100) == (int(row[0]), 100.0)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["seven"], 1, "1 done"),
        (["sevn"], 2, "did you mean seven?"),
    ],
)
def test_the_command_says_it_with_an_exit_code(study: Path, arguments: list[str], code: int, words: str) -> None:
    command = [sys.executable, "-m", "experiments.status", *arguments, "--records", str(study.parent.parent)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == code
    assert words in answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("number", [errno.EPERM, errno.ESRCH])
def test_a_launcher_that_may_not_be_stopped_is_one_sentence(
    number: int, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's, or one that ended between the look and the signal."""
    (study / "claim-1").mkdir()
    (study / "claim-1" / "owner.json").write_bytes(as_json(owner()))
    asked: list[tuple[int, int]] = []

    def refused(pid: int, signum: int) -> None:
        asked.append((pid, signum))
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "kill", refused)
    assert cancel(study) == [f"process {os.getpid()} on {owner()['host']}: not stopped ({os.strerror(number)})"]
    assert asked == [(os.getpid(), signal.SIGTERM)]


def test_the_log_of_a_run_is_that_of_its_task(study: Path) -> None:
    records = study.parent.parent
    head = study / "launches/1/launch.json"
    freeze_launch(study, [[[entry.run_id for entry in RUNS]]], {"cluster": "local", "array_size": None})
    log, other = study / "launches/1/logs/0.log", study / "launches/2/logs/0.log"
    assert logs_of(RUNS[3].run_id, records, code_id()) == []
    for number, path in enumerate((log, other)):
        path.write_text("words\n")
        os.utime(path, (number, number))
    assert logs_of(RUNS[3].run_id, records, code_id()) == [log, other]
    assert logs_of("0" * 12, records, code_id()) == []
    head.write_bytes(as_json(read_json(head) | {"code_id": "0" * 12}))
    assert logs_of(RUNS[3].run_id, records, code_id()) == [other]
    assert logs_of(RUNS[3].run_id, records, "0" * 12) == [log]


def test_a_runs_log_is_looked_for_in_the_records_that_it_lies_in(study: Path, tmp_path: Path) -> None:
    log = study / "launches/1/logs/0.log"
    log.write_text("words\n")
    begun = folder(study.parent.parent, RUNS[3])
    (begun / "config.json").touch()
    assert logs_meant(str(begun), tmp_path / "elsewhere") == [log]
    shutil.rmtree(study)
    with pytest.raises(UserError, match=f"no study in {tmp_path}/studies has a log of it"):
        logs_meant(str(begun), tmp_path / "elsewhere")


def test_a_run_whose_task_failed_before_it_began_has_a_log(study: Path) -> None:
    records = study.parent.parent
    log = study / "launches/1/logs/0.log"
    for path in (records / "runs").glob("*/*"):
        (path / "config.json").touch()
    missing, begun = RUNS[6], RUNS[3]
    with pytest.raises(UserError, match="no run is at the path"):
        logs_meant(missing.folder_name, records)  # no word of it yet
    log.write_text("error: device=cuda, but there is no GPU\n")
    for name in (missing.folder_name, missing.folder_name.rpartition("-")[0], missing.run_id, missing.run_id[:8]):
        assert logs_meant(name, records) == [log]
    with pytest.raises(UserError, match="could be"):
        logs_meant("CartPole", records)
    shutil.copytree(folder(records, begun), records / "runs" / ("0" * 12) / begun.folder_name)
    with pytest.raises(UserError, match="could be"):
        logs_meant(begun.folder_name, records)  # by two codes


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained in a pack of three."""
    path = tmp_path_factory.mktemp("records")
    train([small_run(seed=seed, env="CartPole-v1") for seed in (0, 1, 2)], path)
    return path


class TestRerun:
    def test_a_run_made_again_alone_has_the_bytes_it_had_in_its_pack(self, records: Path) -> None:
        (run,) = records.glob("runs/*/*.s1-*")
        assert rerun(run) == []

    def test_the_first_line_that_differs_is_named(self, records: Path, tmp_path: Path) -> None:
        shutil.copytree(records, tmp_path / "copy")
        (run,) = (tmp_path / "copy").glob("runs/*/*.s1-*")
        path = run / "attempt-1" / "episodes.csv"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:4], "1,2.0,3", *lines[5:]]) + "\n")
        assert rerun(run) == [f"episodes.csv differs first in line 5: 1,2.0,3 in the record, {lines[4]} now"]

    def test_a_file_that_is_gone_is_one_sentence(self, records: Path, tmp_path: Path) -> None:
        shutil.copytree(records, tmp_path / "copy")
        (run,) = (tmp_path / "copy").glob("runs/*/*.s1-*")
        (run / "attempt-1" / "episodes.csv").unlink()
        with pytest.raises(UserError, match=r"episodes\.csv cannot be read \(No such file"):
            rerun(run)

    def test_other_code_and_unfinished_runs_are_refused(self, records: Path, tmp_path: Path) -> None:
        shutil.copytree(records, tmp_path / "copy")
        (run,) = (tmp_path / "copy").glob("runs/*/*.s1-*")
        head = json.loads((run / "config.json").read_text())
        (run / "config.json").write_bytes(as_json(head | {"code_id": "0" * 12}))
        done = json.loads((run / "done.json").read_text()) | {"code_id": "0" * 12}
        (run / "done.json").write_bytes(as_json({name: value for name, value in done.items() if "sha" not in name}))
        with pytest.raises(UserError, match="computed by code 000000000000"):
            rerun(run)
        (run / "done.json").unlink()
        with pytest.raises(UserError, match="not finished"):
            rerun(run)
