"""Killed at any moment and started again, a run's record is the one it would have left undisturbed, byte for byte."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.sources.records import Broken, read_run
from experiments.jobs.progress import Progress
from experiments.records import checkpoint
from experiments.records.record import Attempt, Record
from experiments.runner import Interrupted, Watcher, train_runs
from experiments.trace import ALGOS
from ppo.config import Algo, RunConfig
from ppo.refusals import UserError
from tests.conftest import ROOT, ROWS, Killed, killed_before, named, promised, small_run, train


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


@pytest.mark.parametrize("algo", ALGOS, ids=lambda algo: f"{algo.objective} {algo.advantage}")
def test_stopping_changes_no_byte_of_any_algorithm(algo: Algo, undisturbed: Any, tmp_path: Path) -> None:
    small = {"horizon": 64, "minibatch_size": 32, **ALGOS[algo]}
    runs = [small_run(seed, 4, "Hopper-v4", algo=algo, profile=small) for seed in range(2)]
    for _ in range(3):
        with pytest.raises(Killed):
            train_until_checkpoint(runs, tmp_path, 1)
    train(runs, tmp_path)
    assert promised(runs, tmp_path) == undisturbed(runs)


def test_stopping_changes_no_byte_of_runs_with_several_actors(undisturbed: Any, tmp_path: Path) -> None:
    runs = three_runs(base="ppo2_2018", env="Hopper-v4", profile={"actors": 3, "horizon": 64, "minibatch_size": 32})
    for _ in range(3):
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


@pytest.mark.parametrize("member", [0, 1, 2])
@pytest.mark.parametrize("stepsize", [3e-4, 1e37])
def test_a_kill_between_the_last_checkpoint_and_done_changes_no_byte(
    member: int, stepsize: float, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = three_runs()
    runs[member] = replace(runs[member], profile=replace(runs[member].profile, stepsize=stepsize))
    doomed = Record(tmp_path, *named([runs[member]])).folder / "done.json"
    with killed_before(doomed, monkeypatch):
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


@pytest.mark.parametrize("damage", ["torn", "altered", "foreign", "rows gone", "rows altered"])
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
        case "rows altered":
            alter_first_row(folder)
    said: list[str] = []
    train(runs[:1], tmp_path, said=said)
    assert any("an older one is used" in line for line in said), said
    assert promised(runs[:1], tmp_path) == undisturbed(runs[:1])


def alter_first_row(attempt: Path) -> None:
    """Another digit in its first episode's return, the file as long as before."""
    head, first, rest = (attempt / "episodes.csv").read_text().split("\n", 2)
    env_step, value, length = first.split(",")
    altered = f"{env_step},{(int(value[0]) + 1) % 10}{value[1:]},{length}"
    (attempt / "episodes.csv").write_text("\n".join([head, altered, rest]))


def test_rows_carried_over_fit_the_digests_of_the_next_attempt(undisturbed: Any, tmp_path: Path) -> None:
    runs = [small_run(0, 6)]
    for _ in range(2):
        with pytest.raises(Killed):
            train_until_checkpoint(runs, tmp_path, 2)
    kept = Record(tmp_path, *named(runs))
    shutil.copytree(tmp_path, tmp_path / "copy")
    said: list[str] = []
    train(runs, tmp_path, said=said)
    assert said == [] and promised(runs, tmp_path) == undisturbed(runs)
    alter_first_row(Record(tmp_path / "copy", *named(runs)).attempt_folder(2))
    train(runs, tmp_path / "copy", said=said)
    assert ["attempt-2/episodes.csv was altered" in line for line in said] == [True, True]  # attempt-1's are used
    assert promised(runs, tmp_path / "copy") == undisturbed(runs)
    assert (kept.done() or {})["attempt"] == 3


def test_checkpoints_of_older_code_without_digests_are_gone_on_from(undisturbed: Any, tmp_path: Path) -> None:
    runs = [small_run(0, 6)]
    with pytest.raises(Killed):
        train_until_checkpoint(runs, tmp_path, 3)
    kept = Record(tmp_path, *named(runs))
    for start in kept.starts()[:-1]:
        content = {name: value for name, value in kept.load(start).items() if name != "digests"}
        checkpoint.save(kept.attempt_folder(1), start.iteration, content)
    said: list[str] = []
    train(runs, tmp_path, said=said)
    assert said == [] and promised(runs, tmp_path) == undisturbed(runs)


def test_rows_altered_while_training_goes_on_are_not_certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [small_run(0, 3)]
    kept = Record(tmp_path, *named(runs))
    original = Attempt.finish

    def altered(self: Attempt, *arguments: Any) -> dict[str, Any]:
        alter_first_row(self.folder)
        return original(self, *arguments)

    monkeypatch.setattr(Attempt, "finish", altered)
    train(runs, tmp_path)
    with pytest.raises(Broken, match=r"episodes\.csv is not what done\.json's digest says"):
        read_run(kept.folder, {})


def test_a_folder_that_vanishes_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [small_run(0, 6)]
    folder = Record(tmp_path, *named(runs)).folder
    original = Attempt.append

    def vanishes(self: Attempt, *arguments: Any) -> None:
        original(self, *arguments)
        if arguments[0].number == 3:
            folder.rename(tmp_path / "elsewhere")

    monkeypatch.setattr(Attempt, "append", vanishes)
    with pytest.raises(UserError, match=rf"{folder}/attempt-1.*: No such file or directory; .* the same command again"):
        train(runs, tmp_path)


def test_a_diverged_run_is_finished_with_its_env_step_and_its_mates_go_on(undisturbed: Any, tmp_path: Path) -> None:
    healthy = small_run(0, 6)
    wild = replace(small_run(1, 6), profile=replace(healthy.profile, stepsize=1e37))
    train([healthy, wild], tmp_path)
    assert promised([healthy], tmp_path) == undisturbed([healthy])
    done = Record(tmp_path, *named([wild])).done()
    assert done is not None
    assert done["status"] == "diverged"
    assert 0 < done["env_steps"] < wild.env_steps


def test_the_return_shown_after_a_resume_is_that_of_the_last_episodes(tmp_path: Path) -> None:
    """Of both runs; the iteration after the resume alone has fewer than a hundred."""
    runs = [small_run(0, 4), small_run(1, 4)]
    with pytest.raises(Killed):
        train_until_checkpoint(runs, tmp_path, 3)
    progress = Progress()
    fresh: list[int] = []
    moved = progress.moved
    progress.moved = lambda pack, iteration: fresh.extend(map(len, iteration.episodes)) or moved(pack, iteration)
    train_runs(named(runs), tmp_path, 0, progress)
    assert len(fresh) == 2 and max(fresh) < 100
    for recent, run in zip(progress.recent, named(runs), strict=True):
        lines = (Record(tmp_path, run).attempt_folder(2) / "episodes.csv").read_text().splitlines()[1:]
        assert list(recent) == [float(line.split(",")[1]) for line in lines[-100:]]


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


LONG = {"horizon": 256, "epochs": 2}


def long_runs(base: str) -> list[RunConfig]:
    """About three seconds of training in 40 iterations; Reacher resets five times in each."""
    return [small_run(seed, 40, "Reacher-v4", algo=ROWS[5], base=base, profile=LONG) for seed in (3, 4)]


def forked(runs: list[RunConfig], records: Path, checkpoint_seconds: float) -> int:
    """Train in a process of its own, whose exit code is that of `experiments.train`; returns its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            train_runs(named(runs), records, checkpoint_seconds, Watcher())
            code = 0
        except Interrupted as interrupted:
            code = 128 + interrupted.signum
        finally:
            os._exit(code)
    return pid


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("base", ["ppo1_2017_08", "paper_text", "ppo2_2018"])
def test_kill_9_at_ten_random_moments_changes_no_byte(base: str, undisturbed: Any, tmp_path: Path) -> None:
    runs, rng = long_runs(base), np.random.default_rng(len(base))
    for _ in range(10):
        goal = min(reached(runs[0], tmp_path) + rng.integers(0, 5), runs[0].iterations)
        pid = forked(runs, tmp_path, checkpoint_seconds=rng.choice([0.0, 0.1, 0.5]))
        wait_until(lambda goal=goal: reached(runs[0], tmp_path) >= goal)
        time.sleep(rng.uniform(0, 0.1))  # an iteration takes about as long
        os.kill(pid, signal.SIGKILL)
        assert exit_code(pid) in (-signal.SIGKILL, 0)
    attempts = Record(tmp_path, *named(runs[:1])).attempts()
    assert len(attempts) > 3, "too few kills fell into the training to show anything"
    assert exit_code(forked(runs, tmp_path, 1.0)) == 0
    assert promised(runs, tmp_path) == undisturbed(runs)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_writes_the_last_boundary_at_once(name: str, undisturbed: Any, tmp_path: Path) -> None:
    runs = long_runs("ppo1_2017_08")
    folders = [Record(tmp_path, run).attempt_folder(1) for run in named(runs)]
    pid = forked(runs, tmp_path, checkpoint_seconds=1000)
    wait_until(lambda: all((f / "iterations.csv").exists() and iterations_written(f) >= 3 for f in folders))
    os.kill(pid, signal.Signals[name])
    assert exit_code(pid) == 128 + signal.Signals[name]
    written = [checkpoint.iterations_in(folder) for folder in folders]
    assert written == [[iterations_written(folder)] for folder in folders]
    train(runs, tmp_path)
    assert promised(runs, tmp_path) == undisturbed(runs)


def reached(run: RunConfig, records: Path) -> int:
    """Iterations that the newest attempt has written, 0 before any."""
    record = Record(records, *named([run]))
    attempts = record.attempts()
    file = record.attempt_folder(max(attempts)) / "iterations.csv" if attempts else None
    return iterations_written(file.parent) if file is not None and file.exists() else 0


def iterations_written(folder: Path) -> int:
    return (folder / "iterations.csv").read_text().count("\n") - 1


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_the_command_killed_and_given_again_goes_on(tmp_path: Path) -> None:
    small = ["env=reacher", "env_steps=40_960", "profile.horizon=512", "checkpoint_seconds=0", f"records={tmp_path}"]
    command = [sys.executable, "-m", "experiments.train", *small]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_until(lambda: len(list(tmp_path.rglob("checkpoint-*.pt"))) == 2)
    process.kill()
    process.wait()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and "from env step" in process.stdout.readline()
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert errors == "interrupted by SIGTERM; the same command goes on from the last whole iteration\n"


def test_a_run_that_someone_trains_is_left_alone(undisturbed: Any, tmp_path: Path) -> None:
    runs = long_runs("ppo1_2017_08")
    pid = forked(runs, tmp_path, checkpoint_seconds=0)
    wait_until(lambda: len(list(tmp_path.rglob("checkpoint-*.pt"))) >= 2)
    said: list[str] = []
    assert not train(runs, tmp_path, said=said).done
    assert len([line for line in said if f"is being trained by process {pid}" in line]) == len(runs)
    assert exit_code(pid) == 0
    assert promised(runs, tmp_path) == undisturbed(runs)
