"""W&B holds every row of a record once, whoever is killed when, and the record never notices."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import wandb
import wandb_files
from mirrored import (
    KEY,
    SHORT,
    assert_complete,
    assert_key_is_in_no_file,
    assert_rows,
    copied,
    ending,
    folders_of,
    give,
    hurry_processes,
    in_files,
    mirrored,
    on_server,
    run_of,
    served,
    train,
    train_beside,
    train_some,
    wandb_id,
)
from test_resume import wait_until
from wandb_server import Server

from experiments.records import checkpoint
from experiments.records.record import Attempt
from experiments.tracking import settings as tracking
from experiments.tracking.settings import MirrorProcess, Tracking
from tests.conftest import ROOT, Killed, promised


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with served(monkeypatch, tmp_path / "home") as server:
        yield server


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of a pack of three, the last of which diverges, and of a CartPole run, all in one study."""
    records = tmp_path_factory.mktemp("finished")
    wild = run_of(2)
    runs = [run_of(0), run_of(1), replace(wild, profile=replace(wild.profile, stepsize=1e37))]
    train(runs, records)
    train([run_of(0, env="CartPole-v1")], records)
    names = [folder.name.rpartition("-")[2] for folder in folders_of(runs, records)]
    manifest = records / "studies" / "three" / "manifest.jsonl"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("".join(json.dumps({"run_id": name, "variant": "clip"}) + "\n" for name in names))
    return records


def tags_of(folder: Path) -> list[str]:
    return [] if folder.name.startswith("CartPole") else ["three"]


# What is sent


def test_offline_files_hold_what_the_records_say(finished: Path, server: Server, tmp_path: Path) -> None:
    records, folders = copied(finished, tmp_path / "records")
    assert mirrored(records, folders, "offline") == (True, {"complete": 4})
    for folder in folders:
        assert_complete(in_files(records, folder), folder, tags=tags_of(folder))
        (file,) = wandb_files.read_all(records, wandb_id(folder))
        assert file.step_metrics["*"] == "env_steps"
        assert file.exit_code == 0
    assert not server.requests


def test_a_server_holds_what_the_records_say(finished: Path, server: Server, tmp_path: Path) -> None:
    records, folders = copied(finished, tmp_path / "records")
    assert mirrored(records, folders, "online") == (True, {"complete": 4})
    for folder in folders:
        assert_complete(on_server(server, folder), folder, tags=tags_of(folder))
        run = server.runs[wandb_id(folder)]
        assert run.state == "finished"
        metrics = run.config["_wandb"]["value"]["m"]  # in W&B's numbers: 1 is a name, 2 a pattern, 5 an index from 1
        (pattern,) = [metric for metric in metrics if metric.get("2") == "*"]
        assert metrics[pattern["5"] - 1]["1"] == "env_steps"
    assert server.rows_received == sum(len(run.rows) for run in server.runs.values())
    assert_key_is_in_no_file(records)


def test_values_that_are_not_finite_are_left_out_of_a_row(finished: Path, server: Server, tmp_path: Path) -> None:
    records, _ = copied(finished, tmp_path / "records")
    (wild,) = [path.parent for path in records.rglob("done.json") if '"diverged"' in path.read_text()]
    table = wild / "attempt-1" / "iterations.csv"
    head, first, *others = (line.split(",") for line in table.read_text().splitlines())
    first[head.index("kl")], first[head.index("entropy")] = "inf", "nan"
    last = others[-1] if others else first
    assert "" in last
    table.write_text("".join(",".join(line) + "\n" for line in (head, first, *others)))
    assert mirrored(records, [wild], "offline") == (True, {"complete": 1})
    held = in_files(records, wild)
    assert_rows(held, wild)
    assert not {"kl", "entropy"} & held.rows[0].keys()
    assert not {name for name, value in zip(head, last, strict=True) if not value} & held.rows[-1].keys()
    assert held.summary["status"] == "diverged"


def test_a_second_time_nothing_is_sent(finished: Path, server: Server, tmp_path: Path) -> None:
    records, folders = copied(finished, tmp_path / "records")
    assert mirrored(records, folders, "online")[0]
    before = server.requests.copy(), server.rows_received
    assert mirrored(records, folders, "online") == (True, {"complete before": 4})
    assert (server.requests, server.rows_received) == before


def test_without_cursors_the_server_is_asked_and_no_row_is_sent_again(
    finished: Path, server: Server, tmp_path: Path
) -> None:
    records, folders = copied(finished, tmp_path / "records")
    assert mirrored(records, folders, "online")[0]
    rows = server.rows_received
    for cursor in (records / "wandb" / "cursors").iterdir():
        cursor.unlink()
    assert mirrored(records, folders, "online") == (True, {"complete": 4})
    assert server.rows_received == rows
    for folder in folders:
        assert_complete(on_server(server, folder), folder, tags=tags_of(folder))


def test_another_project_gets_the_runs_too(finished: Path, server: Server, tmp_path: Path) -> None:
    """A cursor says what one place holds, not that another does."""
    records, folders = copied(finished, tmp_path / "records")
    assert mirrored(records, folders[:1], "online") == (True, {"complete": 1})
    server.runs.clear()
    assert mirrored(records, folders[:1], "online", project="other") == (True, {"complete": 1})
    (run,) = server.runs.values()
    assert run.project == "other" and run.rows


def test_what_the_files_do_not_hold_is_not_complete(
    finished: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B's client hands rows to a process of its own, and nothing comes back: a cursor must not trust its silence."""
    records, folders = copied(finished, tmp_path / "records")
    log = wandb.Run.log
    with monkeypatch.context() as patch:
        patch.setattr(
            wandb.Run, "log", lambda self, row, step, **others: step > 3 or log(self, row, step=step, **others)
        )
        give(patch, SHORT)
        assert mirrored(records, folders[:1], "offline") == (False, {"FAILED": 1})
    assert mirrored(records, folders[:1], "offline") == (True, {"complete": 1})
    assert_complete(in_files(records, folders[0]), folders[0])


# While it grows


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_rows_follow_the_checkpoints(
    mode: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that no checkpoint covers may be trained again, so it is not sent before it is covered."""
    runs = [run_of(0, 8), run_of(1, 8)]
    folders = folders_of(runs, tmp_path)
    seen = []

    def look() -> None:
        if mode == "online":
            wait_until(lambda: all(on_server(server, folder).rows for folder in folders))
            time.sleep(1.5)  # a transmission is due every second
            seen.extend([row["_step"] for row in on_server(server, folder).rows] for folder in folders)

    def uncovered() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Attempt, "checkpoint", lambda self: None)
            patch.setattr(Attempt, "finish", killed)
            with pytest.raises(Killed):
                train(runs, tmp_path)

    events = [lambda: train_some(runs, tmp_path, 2), look, uncovered, look, lambda: train(runs, tmp_path)]
    assert mirrored(tmp_path, folders, mode, *events) == (True, {"complete": 2})
    for steps in seen:
        assert steps in ([1], [1, 2])  # W&B's client may keep the newest row until another comes
    for folder in folders:
        assert_rows(on_server(server, folder) if mode == "online" else in_files(tmp_path, folder), folder, whole=False)


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_run_without_a_checkpoint_yet_is_sent_so_far_and_later_whole(
    mode: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(0)
    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "append", killed)
        with pytest.raises(Killed):
            train([run], tmp_path)
    folders = folders_of([run], tmp_path)
    said: list[str] = []
    assert mirrored(tmp_path, folders, mode, said=said) == (True, {"so far": 1}), said
    train([run], tmp_path)
    assert mirrored(tmp_path, folders, mode) == (True, {"complete": 1})
    assert_complete(on_server(server, *folders) if mode == "online" else in_files(tmp_path, *folders), *folders)


def killed(*_: Any) -> None:
    raise Killed


@pytest.mark.parametrize("mode", ["offline", "online"])
@pytest.mark.parametrize("torn", [1, 2])
def test_a_resume_that_goes_further_back_repeats_no_row(
    mode: str, torn: int, server: Server, tmp_path: Path, undisturbed: Any
) -> None:
    """Rows were sent when a checkpoint covered them; then the checkpoint turns out to be torn."""
    runs = [run_of(0)]
    train_some(runs, tmp_path, 4)
    (folder,) = folders_of(runs, tmp_path)
    assert mirrored(tmp_path, [folder], mode) == (True, {"so far": 1})
    for iteration in checkpoint.iterations_in(folder / "attempt-1")[:torn]:
        checkpoint.path_of(folder / "attempt-1", iteration).write_bytes(b"torn")
    train(runs, tmp_path)
    assert mirrored(tmp_path, [folder], mode) == (True, {"complete": 1})
    assert_complete(on_server(server, folder) if mode == "online" else in_files(tmp_path, folder), folder, whole=False)
    assert promised(runs, tmp_path) == undisturbed(runs)


def test_a_folder_that_is_still_being_prepared_is_waited_for(finished: Path, server: Server, tmp_path: Path) -> None:
    """config.json comes first, and provenance.json once Git and the packages have been asked."""
    records, folders = copied(finished, tmp_path / "records")
    provenance = folders[0] / "provenance.json"
    content = provenance.read_bytes()
    provenance.unlink()
    said: list[str] = []
    outcome = mirrored(records, folders[:1], "offline", int, lambda: provenance.write_bytes(content), said=said)
    assert outcome == (True, {"complete": 1})
    assert said == []


# Beside a trainer


def left_behind(records: Path) -> dict[str, bytes]:
    """Everything that a record promises."""
    kept = ("episodes.csv", "iterations.csv", "done.json", "config.json")
    return {
        str(path.relative_to(records)): path.read_bytes() for name in kept for path in records.glob(f"runs/**/{name}")
    }


def test_a_record_is_the_same_whatever_becomes_of_its_mirror(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hurry_processes(monkeypatch)
    runs = [run_of(0), run_of(1)]
    troubles = {mode: train_beside(mode, runs, tmp_path / mode) for mode in ("none", "offline", "online")}
    server.stop()
    with monkeypatch.context() as patch:
        hurry_processes(patch, SHORT)
        troubles["dead"] = train_beside("online", runs, tmp_path / "dead")
    bytes_left = left_behind(tmp_path / "none")
    assert len(bytes_left) == 4 * len(runs)
    for mode in ("offline", "online", "dead"):
        assert left_behind(tmp_path / mode) == bytes_left
    for folder in folders_of(runs, tmp_path / "offline"):
        assert_complete(in_files(tmp_path / "offline", folder), folder)
    for folder in folders_of(runs, tmp_path / "online"):
        assert_complete(on_server(server, folder), folder)
    dead = troubles.pop("dead")
    assert "python -m experiments.sync" in dead
    assert set(troubles.values()) == {""}
    assert not (tmp_path / "none" / "wandb").exists()
    assert [ending(tmp_path / mode) for mode in ("offline", "online", "dead")] == ["2 complete"] * 2 + ["2 not sent"]
    lines = [line for line in capfd.readouterr().err.splitlines() if "0.2.s" in line]
    assert lines and all("cannot start" in line for line in lines), "only the dead server is worth a word"
    assert all(line.startswith("W&B mirror: ") and "training is not affected" in line for line in lines)


def test_a_mirror_that_cannot_write_says_so_in_one_line_that_is_not_about_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    task = {"records": str(tmp_path / "file"), "mode": "offline", "project": "ppo", "entity": None, "folders": []}
    line = [sys.executable, "-m", "experiments.tracking.process"]
    done = subprocess.run(line, cwd=ROOT, input=json.dumps(task) + "\n", capture_output=True, text=True)
    (said,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert said.startswith("W&B mirror: ") and "training is not affected; python -m experiments.sync" in said


def test_a_mirror_that_could_not_start_is_named_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: Any, **__: Any) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(tracking.subprocess, "Popen", no_more)
    process = MirrorProcess(Tracking("offline"), tmp_path / "my records", [])
    assert process.finish() == "", "nothing was to be trained, so none was wanted"
    process.start()
    assert "training is not affected" in (said := process.finish())
    assert f"python -m experiments.sync '{tmp_path}/my records'" in said


def test_settings_of_the_surroundings_change_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    hurry_processes(monkeypatch)
    for name in ("RUN_ID", "TAGS", "RUN_GROUP", "PROJECT", "NAME", "ENTITY", "JOB_TYPE"):
        monkeypatch.setenv(f"WANDB_{name}", "mine")
    for name, value in (("MODE", "disabled"), ("DISABLED", "true"), ("RESUME", "never"), ("DIR", tmp_path / "mine")):
        monkeypatch.setenv(f"WANDB_{name}", str(value))
    runs = [run_of(0), run_of(1)]
    assert train_beside("online", runs, tmp_path / "records") == ""
    for folder in folders_of(runs, tmp_path / "records"):
        assert_complete(on_server(server, folder), folder)
    assert len(server.runs) == 2 and not (tmp_path / "mine").exists()
    out, err = capfd.readouterr()
    assert KEY not in out + err
    assert_key_is_in_no_file(tmp_path)


TRAINS = """
import sys
from pathlib import Path
from tests.conftest import small_run, train
import experiments.train, experiments.jobs.worker
train([small_run(0, 1)], Path(sys.argv[1]))
assert "torch" in sys.modules
assert not [name for name in sys.modules if name.partition(".")[0] == "wandb"]
"""
MIRRORS = """
import sys
import experiments.tracking.process, experiments.sync
assert "wandb" in sys.modules
assert not [name for name in sys.modules if name.partition(".")[0] in ("torch", "gymnasium", "hydra")]
"""


READS = """
import sys
import experiments.tracking.reading, experiments.tracking.mirror
assert not [name for name in sys.modules if name.partition(".")[0] in ("wandb", "torch")]
"""


@pytest.mark.parametrize("program", [TRAINS, MIRRORS, READS])
def test_training_and_reading_know_no_wandb_and_the_mirror_no_torch(program: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    line = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
