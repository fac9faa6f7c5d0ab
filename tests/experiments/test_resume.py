"""Killed at any moment and started again, a run's record is the one it would have left undisturbed, byte for byte."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, ROWS, Killed, named, promised, small_run, train

from experiments import checkpoint
from experiments.record import Attempt, Record
from ppo.config import RunConfig


def three_runs(**changes: Any) -> list[RunConfig]:
    return [small_run(seed, 6, algo=ROWS[row], **changes) for seed, row in ((0, 2), (1, 5), (2, 8))]


@pytest.mark.parametrize("base", ["ppo1_2017_08", "paper_text", "ppo2_2018"])
@pytest.mark.parametrize("env", ["HalfCheetah-v4", "Reacher-v4"])
def test_stopping_at_every_boundary_changes_no_byte(base: str, env: str, undisturbed: Any, tmp_path: Path) -> None:
    runs = three_runs(base=base, env=env)
    for _ in range(5):
        with pytest.raises(Killed):
            train_until_checkpoint(runs, tmp_path, 1)
    train(runs, tmp_path)
    assert promised(runs, tmp_path) == undisturbed(runs)


@pytest.mark.parametrize("member", [0, 1, 2])
@pytest.mark.parametrize("moment", ["append", "checkpoint", "finish"])
def test_a_kill_between_the_writes_of_two_members_changes_no_byte(
    member: int, moment: str, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = three_runs()
    calls = 0
    original = getattr(Attempt, moment)

    def dies(self: Attempt, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        # `finish` comes once a member; the others in the third iteration, when two generations are on disk.
        if calls == (member + 1 if moment == "finish" else 2 * len(runs) + member + 1):
            raise Killed
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Attempt, moment, dies)
        with pytest.raises(Killed):
            train(runs, tmp_path)
    train(runs, tmp_path)
    assert promised(runs, tmp_path) == undisturbed(runs)


def test_members_that_stand_apart_go_on_in_packs_of_their_own(undisturbed: Any, tmp_path: Path) -> None:
    runs = three_runs()
    for count, some in ((4, runs[:1]), (1, runs[1:])):
        with pytest.raises(Killed):
            train_until_checkpoint(some, tmp_path, count)
    train(runs, tmp_path)
    assert promised(runs, tmp_path) == undisturbed(runs)


@pytest.mark.parametrize("damage", ["torn", "altered", "foreign", "rows gone"])
def test_a_checkpoint_that_cannot_be_trusted_is_refused_and_an_older_one_used(
    damage: str, undisturbed: Any, tmp_path: Path
) -> None:
    runs = [small_run(0, 6), small_run(1, 6)]
    for run in runs:
        with pytest.raises(Killed):
            train_until_checkpoint([run], tmp_path, 3)
    folder, other = (Record(tmp_path, run).attempt_folder(1) for run in named(runs))
    newest = checkpoint.path_of(folder, 3)
    data = newest.read_bytes()
    match damage:
        case "torn":
            newest.write_bytes(data[: len(data) // 2])
        case "altered":
            newest.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
        case "foreign":
            shutil.copy(checkpoint.path_of(other, 3), newest)
        case "rows gone":
            rows = (folder / "iterations.csv").read_bytes().splitlines(keepends=True)
            (folder / "iterations.csv").write_bytes(b"".join(rows[:3]))
    said: list[str] = []
    train(runs[:1], tmp_path, said=said)
    assert any("an older one is used" in line for line in said), said
    assert promised(runs[:1], tmp_path) == undisturbed(runs[:1])


def test_a_higher_attempt_fences_off_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [small_run(0, 6)]
    record = Record(tmp_path, *named(runs))
    original = Attempt.append

    def taken_over(self: Attempt, *arguments: Any) -> None:
        original(self, *arguments)
        if arguments[0].number == 3:
            record.attempt_folder(2).mkdir()

    monkeypatch.setattr(Attempt, "append", taken_over)
    said: list[str] = []
    outcome = train(runs, tmp_path, said=said)
    assert not outcome.done and record.done() is None
    assert any("taken over" in line for line in said)
    assert checkpoint.iterations_in(record.attempt_folder(1)) == [2, 1]


def test_a_diverged_run_is_finished_with_its_env_step_and_its_mates_go_on(undisturbed: Any, tmp_path: Path) -> None:
    healthy = small_run(0, 6)
    wild = replace(small_run(1, 6), profile=replace(healthy.profile, stepsize=1e37))
    train([healthy, wild], tmp_path)
    assert promised([healthy], tmp_path) == undisturbed([healthy])
    done = Record(tmp_path, *named([wild])).done()
    assert done is not None
    assert done["status"] == "diverged"
    assert 0 < done["env_steps"] < wild.env_steps


def train_until_checkpoint(runs: list[RunConfig], records: Path, count: int) -> None:
    """Die right after `count` iterations were checkpointed."""
    left = count * len(runs)
    original = Attempt.checkpoint

    def counted(self: Attempt) -> None:
        nonlocal left
        original(self)
        left -= 1
        if left == 0:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Attempt, "checkpoint", counted)
        train(runs, records)


COMMAND = [
    *(sys.executable, "-m", "experiments.train", "env=reacher", "seeds=[3,4]", "env_steps=24_576"),
    *("profile.horizon=512", "profile.epochs=4", "algo=kl_adaptive"),
]
"""About four seconds of training in 48 iterations."""


def launch(records: Path, *more: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*COMMAND, f"records={records}", *more], cwd=ROOT, **pipes)  # type: ignore[call-overload]


def files(records: Path) -> dict[str, bytes]:
    """The promised files of all finished runs, whatever attempt wrote them."""
    out = {}
    for done in sorted(records.glob("runs/*/*/done.json")):
        attempt = json.loads(done.read_text())["attempt"]
        for name in ("episodes.csv", "iterations.csv"):
            out[f"{done.parent.name}/{name}"] = (done.parent / f"attempt-{attempt}" / name).read_bytes()
    return out


def kills_until_finished(records: Path, kills: int, rng: np.random.Generator, *more: str) -> int:
    """kill -9 at random moments, then let it finish; returns how many kills found it training."""
    found = 0
    for _ in range(kills):
        process = launch(records, *more)
        assert process.stdout is not None
        process.stdout.readline()  # the pack is there
        time.sleep(rng.uniform(0.0, 1.5))
        found += process.poll() is None
        process.kill()
        process.communicate()
    output, _ = launch(records, *more).communicate()
    assert len(files(records)) == 4, output
    return found


@pytest.mark.parametrize(
    ("base", "seconds", "kills"), [("ppo1_2017_08", 0, 4), ("paper_text", 0.3, 3), ("ppo2_2018", 0.1, 3)]
)
def test_kill_9_of_a_real_process_at_random_moments_changes_no_byte(
    base: str, seconds: float, kills: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(len(base))
    assert kills_until_finished(tmp_path / "killed", kills, rng, f"profile={base}", f"checkpoint_seconds={seconds}") > 0
    launch(tmp_path / "undisturbed", f"profile={base}", "checkpoint_seconds=1000").communicate()
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_writes_a_checkpoint_and_says_so(name: str, tmp_path: Path) -> None:
    signum = signal.Signals[name]
    process = launch(tmp_path, "checkpoint_seconds=1000")
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1.0)
    os.kill(process.pid, signum)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signum, output
    assert f"interrupted by {name}: checkpoint written" in output
    assert len(list(tmp_path.rglob("checkpoint-*.pt"))) == 2, "one boundary of each run"
    output, _ = launch(tmp_path).communicate()
    assert "from env step" in output
    assert len(files(tmp_path)) == 4
