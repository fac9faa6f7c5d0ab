"""Studies on this machine, by their commands: complete, byte-equal whatever was killed, and clear about what failed."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import initialize_config_dir

from experiments.compose import CONF
from experiments.files import as_json, read_json
from experiments.grammar import Study
from experiments.jobs.launch import launches_of
from experiments.jobs.survey import look
from experiments.manifest import Entry, expand, freeze, read_manifest
from experiments.records.provenance import ROOT
from tests.conftest import promised, train

STUDY = """
profile: ppo1_2017_08
env_steps: 6144
seeds: [0, 1]
environments: [cartpole, invertedpendulum]
variants:
  plain: [algo=unconstrained]
  clip: [algo=clip]
"""
SMALL = ("profile.horizon=256", "profile.epochs=2", "tracking=none", "checkpoint_seconds=0.2")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder for --config-dir with a study in it: 8 runs of 24 iterations."""
    (tmp_path / "conf" / "study").mkdir(parents=True)
    (tmp_path / "conf" / "study" / "tiny.yaml").write_text(STUDY)
    return tmp_path


def command(tiny: Path, *overrides: str, records: str = "records") -> list[str]:
    study = [f"--config-dir={tiny / 'conf'}", "study=tiny", f"records={tiny / records}", *SMALL, *overrides]
    return [sys.executable, "-m", "experiments.study", *study]


def launch(tiny: Path, *overrides: str, records: str = "records") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(tiny, *overrides, records=records), capture_output=True, text=True, timeout=300)


def start(tiny: Path, *overrides: str) -> subprocess.Popen[bytes]:
    """The command in the background, in a process group of its own."""
    return subprocess.Popen(
        command(tiny, *overrides),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored, if these tests run behind &
    )


def entries(tiny: Path) -> list[Entry]:
    return read_manifest(tiny / "records" / "studies" / "tiny")


def assert_undisturbed(tiny: Path) -> None:
    """Every run is done, and its files are those of the same runs trained here with nothing in their way."""
    by_env: dict[str, list[Any]] = {}
    for entry in entries(tiny):
        by_env.setdefault(entry.env, []).append(entry.run.config)
    for env, runs in by_env.items():
        train(runs, tiny / f"undisturbed-{env}", checkpoint_seconds=1e9)
        assert promised(runs, tiny / "records") == promised(runs, tiny / f"undisturbed-{env}")


def begun(tiny: Path) -> bool:
    return any((tiny / "records").glob("runs/*/*/attempt-*/checkpoint-*.pt"))


def relatives(study: subprocess.Popen[bytes]) -> Iterator[int]:
    """Every process below the launcher: tasks and workers, each in a process group of its own."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    for pid in parents:
        above = pid
        while above in parents and above != study.pid:
            above = parents[above]
        if above == study.pid:
            yield pid


def wait_until(condition: Any, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def test_a_study_completes_and_the_same_command_has_nothing_left_to_do(tiny: Path) -> None:
    first = launch(tiny)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "tiny: 8 done" in first.stdout
    assert_undisturbed(tiny)
    (frozen,) = launches_of(tiny / "records/studies/tiny")
    ids = [run for task in frozen.tasks() for pack in task for run in pack]
    assert sorted(ids) == sorted(e.run_id for e in entries(tiny))
    origin = read_json(next((tiny / "records").glob("runs/*/*/provenance.json")))
    assert origin["commit"] == read_json(Path(frozen.head()["code"]) / "origin.json")["commit"]

    again = launch(tiny)
    assert again.returncode == 0
    assert "tiny: 8 done" in again.stdout
    assert len(launches_of(tiny / "records/studies/tiny")) == 1

    grown = launch(tiny, "seeds=[0,1,2]", "environments=[cartpole,invertedpendulum]")
    assert grown.returncode == 2
    assert "4 new" in grown.stderr
    assert "extend=true" in grown.stderr
    grown = launch(tiny, "seeds=[0,1,2]", "extend=true")
    assert grown.returncode == 0
    assert "tiny: 12 done" in grown.stdout

    status = subprocess.run(
        [sys.executable, "-m", "experiments.status", "tiny", "--records", str(tiny / "records"), "--json"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert status.returncode == 0
    assert json.loads(status.stdout)["counts"] == {"done": 12}


KNEELER = """
import gymnasium, numpy

class Kneeler(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), numpy.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), numpy.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return numpy.zeros(2), {}

    def step(self, action):
        self.steps += 1
        if BROKEN and self.steps == 5:
            raise ArithmeticError("the knee broke")
        return numpy.zeros(2), 1.0, self.steps == 20, False, {}

gymnasium.register(NAME, Kneeler)
"""


def test_own_files_and_modules_are_found_and_only_the_run_that_raises_fails(tmp_path: Path) -> None:
    """A task in the command's folder, one on a PYTHONPATH that is relative, and a setting that diverges at once."""
    for folder in ("conf/study", "conf/env", "conf/algo", "conf/profile", "modules"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "kneels.py").write_text(f"BROKEN, NAME = False, 'Kneels-v0'\n{KNEELER}")
    (tmp_path / "modules/breaks.py").write_text(f"BROKEN, NAME = True, 'Breaks-v0'\n{KNEELER}")
    for name in ("kneels", "breaks"):
        (tmp_path / f"conf/env/{name}.yaml").write_text(f"id: {name}:{name.title()}-v0\n")
    (tmp_path / "conf/algo/own.yaml").write_text((CONF / "algo/clip.yaml").read_text())
    small = (CONF / "profile/ppo1_2017_08.yaml").read_text().replace("horizon: 2048", "horizon: 256")
    (tmp_path / "conf/profile/small.yaml").write_text(small)
    (tmp_path / "conf/study/own.yaml").write_text(
        "profile: small\nenv_steps: 512\nseeds: [0]\nenvironments: [kneels, breaks]\n"
        "variants: {good: [algo=own], bad: [algo=own, profile.stepsize=1e300]}\n"
    )
    line = [sys.executable, "-m", "experiments.study", "--config-dir", "conf", "study=own", "tracking=none"]
    path = {**os.environ, "PYTHONPATH": f"modules{os.pathsep}{ROOT}"}
    done = subprocess.run(line, cwd=tmp_path, env=path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    states = {(entry.env, entry.variant): stand.state for entry, stand in look(tmp_path / "records/studies/own")}
    assert states == {
        ("kneels", "good"): "done", ("kneels", "bad"): "diverged", ("breaks", "good"): "failed",
        ("breaks", "bad"): "failed",
    }  # fmt: skip
    assert "failed: breaks_Breaks-v0-clip_0.2.s0" in done.stdout and "ArithmeticError: the knee broke" in done.stdout


def test_what_cannot_run_is_refused_before_it_is_frozen(tiny: Path) -> None:
    (tiny / "conf/env").mkdir()
    (tiny / "conf/env/lost.yaml").write_text("id: nowhere_at_all:Lost-v0\n")
    (tiny / "conf/study/tiny.yaml").write_text(STUDY.replace("cartpole", "lost"))
    refused = launch(tiny)
    assert refused.returncode == 2
    assert "No module named 'nowhere_at_all'" in refused.stderr
    assert not (tiny / "records/studies/tiny/manifest.jsonl").exists()


def test_three_kills_at_random_moments_cost_no_byte(tiny: Path) -> None:
    rng = random.Random(os.urandom(8))
    for _ in range(3):
        study = start(tiny)
        time.sleep(rng.uniform(2.0, 12.0))
        for pid in [*relatives(study), study.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        study.wait()
    last = launch(tiny)
    assert last.returncode == 0, last.stdout + last.stderr
    assert_undisturbed(tiny)


def test_a_killed_launcher_takes_its_packs_with_it(tiny: Path) -> None:
    study = start(tiny, "env_steps=10_000_000")
    wait_until(lambda: begun(tiny))
    below = [*relatives(study)]
    study.kill()
    study.wait()
    wait_until(lambda: not any(alive(pid) for pid in below))
    states = {stand.state for _, stand in look(tiny / "records/studies/tiny")}
    assert "running" not in states
    assert "stopped" in states


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_study_with_checkpoints_and_the_same_command_goes_on(tiny: Path, signum: int) -> None:
    study = start(tiny)
    wait_until(lambda: begun(tiny))
    study.send_signal(signum)
    assert study.wait(300) == 130
    assert launch(tiny).returncode == 0
    assert_undisturbed(tiny)


def test_two_launches_at_once_train_nothing_twice(tiny: Path) -> None:
    first = start(tiny, "env_steps=10_000_000")
    wait_until(lambda: begun(tiny))
    second = launch(tiny, "env_steps=10_000_000")
    assert second.returncode == 2
    assert "is being launched by another command" in second.stderr
    first.send_signal(signal.SIGINT)
    assert first.wait(300) == 130
    attempts = [len([*run.glob("attempt-*")]) for run in (tiny / "records").glob("runs/*/*")]
    assert attempts == [1] * 8


def test_a_dry_run_tells_and_does_nothing(tiny: Path) -> None:
    told = launch(tiny, "dry_run=true", "cluster.workers=1")
    assert told.returncode == 0
    assert "tiny: 8 of 8 runs to train" in told.stdout
    assert "CartPole-v1, 4 runs: plain × 2, clip × 2" in told.stdout
    assert "core-hours" in told.stdout
    assert not (tiny / "records").exists()


QUEUED = ("cluster=slurm", "cluster.runs_per_pack=4", "environments=[cartpole]")


@pytest.fixture
def slurm(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins: sbatch takes every job, and none of them ever starts."""
    answers = {"sbatch": "echo 77", "squeue": "echo '77|0|PENDING||Priority|x'", "scontrol": "exit 1"}
    for name, line in answers.items():
        (tiny / name).write_text(f"#!/bin/sh\n{line}\n")
        (tiny / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tiny}:{os.environ['PATH']}")


@pytest.mark.usefixtures("slurm")
def test_what_is_queued_is_not_submitted_twice_unless_the_code_is_another(tiny: Path) -> None:
    assert "submitted 77: 1 tasks" in launch(tiny, *QUEUED).stdout
    again = launch(tiny, *QUEUED).stdout
    assert "4 runs left alone: at work or queued already" in again and "tiny: 4 queued" in again
    (frozen,) = launches_of(tiny / "records/studies/tiny")
    (frozen.folder / "launch.json").write_bytes(as_json(frozen.head() | {"code_id": "0" * 12}))
    assert "submitted 77: 1 tasks" in launch(tiny, *QUEUED).stdout


@pytest.mark.usefixtures("slurm")
def test_the_job_that_follows_up_finds_the_parts_from_where_it_begins(tiny: Path) -> None:
    part = tiny / "parts" / "CartPole-v1" / "plain.s0-0"
    part.mkdir(parents=True)
    (part / "dataset.json").write_text("{}")
    pd.DataFrame({"run_id": ["r"], "code_id": ["c"]}).to_parquet(part / "runs.parquet")
    near = f"parts={os.path.relpath(tiny / 'parts')}"
    assert launch(tiny, *QUEUED, "cluster.follow_up=1", near).returncode == 0
    (frozen,) = launches_of(tiny / "records/studies/tiny")
    words = shlex.split((frozen.folder / "follow-up.sh").read_text(), comments=True)
    assert f"parts='{tiny / 'parts'}'" in words and near not in words


def test_without_a_study_the_command_refuses_but_tells_of_itself() -> None:
    def said(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "experiments.study", *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=300)

    refused = said("records=/nowhere")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: say which study: study=…, one of atari49, ")
    for arguments, words in (
        (["--help"], "Configuration groups"),
        (["--cfg", "job"], "dry_run: false"),
        (["--info", "defaults"], "cluster/local"),
    ):
        told = said(*arguments)
        assert told.returncode == 0 and words in told.stdout, told.stderr


def test_a_dry_run_refuses_what_the_command_would_refuse(tiny: Path) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        study = Study(("cartpole",), {"plain": ("algo=unconstrained",)}, (0,), 6144, "ppo1_2017_08")
        freeze(tiny / "records/studies/tiny", expand(study, SMALL), extend=False)
    some = ("environments=[cartpole]", "variants=[plain]")
    manifest = tiny / "records/studies/tiny/manifest.jsonl"
    before = manifest.read_bytes()
    refused = launch(tiny, *some, "seeds=[0,1]", "dry_run=true")
    assert refused.returncode == 2
    assert "tiny is frozen and would become another study: 1 new" in refused.stderr
    told = launch(tiny, *some, "seeds=[0,1]", "dry_run=true", "extend=true")
    assert told.returncode == 0 and "tiny: 2 of 2 runs to train" in told.stdout
    assert manifest.read_bytes() == before


def test_what_parts_hold_is_not_trained_again(tiny: Path) -> None:
    """Records of another machine are gone; what was kept of them is done, if this very code trained it."""
    assert "there are no parts of a dataset there" in launch(tiny, f"parts={tiny}").stderr
    assert launch(tiny, "variants=[plain]", records="elsewhere").returncode == 0
    keep = ["-m", "analysis.parts", "tiny", "--records", str(tiny / "elsewhere"), "--out", str(tiny / "parts")]
    subprocess.run([sys.executable, *keep], check=True)
    done = launch(tiny, f"parts={tiny / 'parts'}")
    assert done.returncode == 0
    assert "4 runs left alone: in the parts already" in done.stdout
    assert "4 of 8 runs to train" in done.stdout and "tiny: 8 done" in done.stdout
    assert len([*(tiny / "records/runs").glob("*/*/done.json")]) == 4
    assert [stand.state for _, stand in look(tiny / "records/studies/tiny")] == ["done"] * 8
    for path in (tiny / "parts").glob("*/*/runs.parquet"):
        pd.read_parquet(path).assign(code_id="0" * 12).to_parquet(path)
    assert "4 of 8 runs to train" in launch(tiny, f"parts={tiny / 'parts'}", "dry_run=true").stdout
