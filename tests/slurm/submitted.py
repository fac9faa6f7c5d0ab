"""A tiny study, given to the development cluster by the real command."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.manifest import Entry, read_manifest
from experiments.records.claims import process_start
from ppo.config import RunConfig
from tests.conftest import ROOT, promised, train

ITERATIONS = 50  # a second or two: long enough to be caught in the middle, see `held`
SMALL = {
    "study": "quick",
    "variants": "[clip_0.2]",
    "environments": "[invertedpendulum]",
    "seeds": "[0]",
    "env_steps": str(256 * ITERATIONS),
    "profile.horizon": "256",
    "profile.epochs": "2",
    "tracking": "none",
    "checkpoint_seconds": "1000",  # so that a checkpoint is a signal's doing
    "cluster": "slurm",
    "cluster.time": "00:10:00",
    "cluster.mem": "500M",
    "cluster.runs_per_pack": "1",
    "cluster.constraint": "n1",
}

HELD = f'{shutil.which("sbatch")} --hold "$@"'
"""A shell's line in the place of sbatch: the job waits in the queue until it is released."""

Done = subprocess.CompletedProcess[str]


def eventually(condition: Callable[[], Any], what: str, seconds: float = 180, every: float = 0.03) -> Any:
    """The condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it did not happen within {seconds} s: {what}"
        time.sleep(every)
    return value


def slurm(*command: str) -> str:
    """The answer of one of SLURM's commands."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def dev_cluster(command: str) -> None:
    folder = Path(os.environ["SLURM_CONF"]).parent.parent
    subprocess.run([ROOT / "slurm" / "dev-cluster.sh", command, folder], check=True, timeout=120)


@dataclass(frozen=True)
class Job:
    """A line of squeue."""

    id: str  # 12_0
    state: str
    node: str
    reason: str


class Submitted:
    """A study of one or a few runs with a name of its own, by which its jobs are known in the queue."""

    def __init__(self, tmp_path: Path, name: str, root: Path = ROOT, **settings: str):
        self.name, self.root = name, root
        self.records = tmp_path / "100%a"  # sbatch has a meaning for it
        self.folder = self.records / "studies" / name
        self.settings = {**SMALL, "name": name, "records": f"'{self.records}'"}
        self.settings |= {key.replace("__", "."): value for key, value in settings.items()}
        self.undisturbed = tmp_path.parents["PYTEST_XDIST_WORKER" in os.environ] / "undisturbed"
        self.bin = tmp_path / "bin"  # first on PATH
        self.caught: set[int] = set()  # pids of workers and their tasks

    def launch(self, *more: str) -> Done:
        """python -m experiments.study …"""
        return self.python("experiments.study", *(f"{key}={value}" for key, value in self.settings.items()), *more)

    def submit(self, *more: str) -> str:
        """A launch that must succeed; returns its words, on one line."""
        done = self.launch(*more)
        assert done.returncode == 0, done.stdout + done.stderr
        return " ".join(done.stdout.split())

    def status(self) -> tuple[int, dict[str, Any]]:
        done = self.python("experiments.status", self.name, "--records", str(self.records), "--json")
        assert not done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout)

    def python(self, *arguments: str) -> Done:
        environment = os.environ | {"PATH": f"{self.bin}:{os.environ['PATH']}"}
        line = [sys.executable, "-m", *arguments]
        return subprocess.run(line, cwd=self.root, env=environment, capture_output=True, text=True, timeout=120)

    def instead_of(self, program: str, script: str) -> None:
        """Put a shell script in a program's place, for the launcher alone."""
        self.bin.mkdir(exist_ok=True)
        (self.bin / program).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / program).chmod(0o755)

    def hold_back(self) -> None:
        self.instead_of("sbatch", f"exec {HELD}")

    def as_ever(self, program: str) -> None:
        (self.bin / program).unlink()

    def queue(self) -> list[Job]:
        """This study's array tasks that are pending or running."""
        lines = slurm("squeue", "--noheader", "--array", "--format=%F_%K|%T|%N|%r|%j").splitlines()
        fields = [line.split("|") for line in lines]
        return [Job(*rest) for *rest, name in fields if name.startswith(f"ppo-{self.name}-")]

    def job(self) -> Job:
        """The only one there is."""
        (job,) = self.queue()
        return job

    def ended(self) -> None:
        """Wait until no job of this study is left; what SLURM holds after a requeue is started at once."""

        def nothing_left() -> bool:
            jobs = self.queue()
            if any(job.reason == "BeginTime" for job in jobs):
                dev_cluster("kick")
            return not jobs

        eventually(nothing_left, f"the end of {self.name}'s jobs", 240, every=0.5)

    def release(self) -> None:
        for job in {job.id.partition("_")[0] for job in self.queue()}:
            slurm("scontrol", "release", job)

    def clean_up(self) -> None:
        """Leave nothing behind, whatever went wrong."""
        for job in self.queue():
            slurm("scancel", job.id)
        for pid in self.caught:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def entries(self) -> list[Entry]:
        return read_manifest(self.folder)

    def run_folder(self, seed: int = 0) -> Path:
        (entry,) = [entry for entry in self.entries() if entry.run.config.seed == seed]
        (folder,) = self.records.glob(f"runs/*/{entry.folder_name}")
        return folder

    def done(self, seed: int = 0) -> dict[str, Any]:
        return json.loads((self.run_folder(seed) / "done.json").read_text())

    def held(self, seed: int = 0, attempt: int = 1) -> int:
        """Stop a run's worker in the middle of its training, where it costs no CPU; returns its pid."""

        def begun() -> Path | None:
            (folder,) = list(self.records.glob(f"runs/*/*.s{seed}-*")) or [self.records]
            assert not (folder / "failed.json").exists(), (folder / "failed.json").read_text()
            found = list(folder.glob(f"attempt-{attempt}/iterations.csv"))
            return found[0].parent if found and found[0].read_text().count("\n") > 3 else None

        folder = eventually(begun, f"the third iteration of seed {seed}, attempt {attempt}")
        pid = json.loads((folder / "owner.json").read_text())["pid"]
        self.caught |= {pid, parent_of(pid)}
        os.kill(pid, signal.SIGSTOP)
        assert not (folder.parent / "done.json").exists(), "it was too fast to be caught"
        return pid

    def log(self, index: str = "0+0", launch: int = 1) -> str:
        return (self.folder / "launches" / str(launch) / "logs" / f"{index}.log").read_text()

    def resumed_at(self, log: str) -> list[int]:
        """The iterations at which the workers of a log began."""
        return [int(number) for number in re.findall(r"from iteration (\d+) of", log)]

    def assert_goes_on_by_the_same_command(self) -> None:
        """A study whose one task ended early: submitted again, it resumes, and nothing tells of the interruption."""
        assert self.status()[1]["counts"] == {"stopped": 1}
        self.submit()
        self.ended()
        (after,) = self.resumed_at(self.log(launch=2))
        assert after > 0
        self.assert_as_undisturbed()

    def assert_as_undisturbed(self) -> None:
        """All runs are done, once, with the bytes that they have where nothing disturbs them."""
        configs = [entry.run.config for entry in self.entries()]
        for config in configs:
            assert promised([config], self.records) == undisturbed(config, self.undisturbed)
        assert len(list(self.records.rglob("done.json"))) == len(configs)
        assert not any("chdir" in path.read_text() for path in self.folder.rglob("*.log")), (
            "it ran where it was told to"
        )


def undisturbed(config: RunConfig, records: Path) -> list[list[str]]:
    """The promised digests of a run, trained in this process or a neighbour; once for all tests."""
    records.mkdir(exist_ok=True)
    with (records / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        train([config], records, checkpoint_seconds=1e9)
    return promised([config], records)


def exit_code(job: str) -> int:
    found = re.search(r"ExitCode=(\d+):", slurm("scontrol", "show", "job", job))
    assert found is not None
    return int(found[1])


def alive(pid: int) -> bool:
    return process_start(pid) is not None


def has(pid: int, signum: signal.Signals) -> bool:
    """Whether a stopped process was sent a signal; if so, it takes it as soon as it goes on."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True
    pending = re.search(r"ShdPnd:\s*(\w+)", status)
    assert pending is not None
    return "T (stopped)" not in status or bool(int(pending[1], 16) >> (signum - 1) & 1)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
