"""What the tests of the mirror share: short runs, what W&B should hold of them, and trainers that can be killed."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import wandb
import wandb_files
from test_resume import train_until_checkpoint, wait_until
from wandb_server import SERVE, Server

from experiments.records.record import Record
from experiments.runner import Watcher, train_runs
from experiments.tracking import mirror
from experiments.tracking import settings as tracking
from experiments.tracking import wandb as wandb_side
from experiments.tracking.mirror import Mirrors
from experiments.tracking.settings import MirrorProcess, Tracking
from ppo.config import RunConfig
from tests.conftest import Killed, named, small_run
from tests.conftest import train as train

KEY = "5ec2e7" + "0123456789abcdef" * 2 + "90"  # as long as a real one; must be found in no file
MEANS = {"return", "length", "return_100", "timing/steps_per_second"}  # of sums whose order is free
LONG, SHORT = 20.0, 2.0  # seconds given to a server: one that answers, one that will not
EAGER = {"RETRY_SECONDS": 0.1, "START_SECONDS": 0.1, "POLL_SECONDS": 0.1}
CLIENT = {  # settings of W&B's, in whole seconds; its own are 15 between transmissions, and 2 to 60 between attempts
    "x_file_stream_transmit_interval": 1.0,
    **{f"x_{part}_retry_wait_min_seconds": 1.0 for part in ("file_stream", "file_transfer", "graphql")},
    **{f"x_{part}_retry_wait_max_seconds": 1.0 for part in ("file_stream", "file_transfer", "graphql")},
}
LAUNCHER = """
import functools, wandb
import experiments.tracking.process as mirror_process
import experiments.tracking.wandb as wandb_side
from experiments import sync
from experiments.tracking import mirror
for name, value in {waits}.items(): setattr(wandb_side, name, value)
for name, value in {eager}.items(): setattr(mirror, name, value)
wandb.Settings = functools.partial(wandb.Settings, **{client})
{module}.main()
"""


def waits(seconds: float) -> dict[str, float]:
    return {"INIT_SECONDS": seconds, "FINISH_SECONDS": seconds, "FLUSH_SECONDS": 0.1}


def hurried(module: str, seconds: float) -> list[str]:
    """The command that runs a module in a hurry."""
    program = LAUNCHER.format(waits=waits(seconds), eager=EAGER, client=CLIENT, module=module)
    return [sys.executable, "-c", program]


def run_of(seed: int, iterations: int = 6, **changes: Any) -> RunConfig:
    return small_run(seed, iterations, **changes)


def folders_of(runs: Sequence[RunConfig], records: Path) -> list[Path]:
    return [Record(records, run).folder for run in named(runs)]


def train_some(runs: Sequence[RunConfig], records: Path, iterations: int) -> None:
    """So many more iterations, a checkpoint after each, and then as killed by kill -9."""
    with pytest.raises(Killed):
        train_until_checkpoint(list(runs), records, iterations)


# Impatience: the real waits are for real servers.


@contextmanager
def served(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Server]:
    """A server that this process and its children take for W&B's, and mirrors in this process in a hurry."""
    server = Server().start()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(home))
    for name, value in EAGER.items():
        monkeypatch.setattr(mirror, name, value)
    monkeypatch.setattr(wandb, "Settings", functools.partial(wandb.Settings, **CLIENT))
    give(monkeypatch, LONG)
    try:
        yield server
    finally:
        if server.behaviour != SERVE:
            server.behaviour = SERVE  # whoever still waits for an answer shall end …
            time.sleep(0.3)  # … and be heard: W&B's service does not end if we hang up while it answers
        wandb.teardown(exit_code=1)
        server.stop()


def give(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """From now on a server gets so long, from mirrors in this process."""
    for name, value in waits(seconds).items():
        monkeypatch.setattr(wandb_side, name, value)


def hurry_processes(monkeypatch: pytest.MonkeyPatch, seconds: float = LONG) -> None:
    """The same for the mirrors beside trainers."""
    real = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        is_mirror = command[1:] == ["-m", "experiments.tracking.process"]
        return real(hurried("mirror_process", seconds) if is_mirror else command, **options)

    monkeypatch.setattr(tracking.subprocess, "Popen", start)


# Mirrors in this process


class Script:
    """The trainer as `Mirrors.keep_up` sees it: one event before each look, and gone after the last."""

    def __init__(self, *events: Callable[[], Any]):
        self.events = list(events)

    def __call__(self, seconds: float) -> bool:
        if not self.events:
            return True
        self.events.pop(0)()
        time.sleep(seconds)
        return False


def mirrored(
    records: Path,
    folders: Sequence[Path],
    mode: Any,
    *events: Callable[[], Any],
    said: list[str] | None = None,
    project: str = "ppo",
) -> tuple[bool, dict[str, int]]:
    """Whether all went well, and how many runs ended how."""
    wait_until(lambda: not any(records.glob(f"wandb/*{time.strftime('%Y%m%d_%H%M%S')}*")))  # W&B's names for folders
    mirrors = Mirrors(
        folders, wandb_side.target_of(records, mode, project, None), (said if said is not None else []).append
    )
    succeeded = mirrors.keep_up(Script(*events))
    return succeeded, {stage: count for stage, count in mirrors.ended.items() if count}


# Mirrors beside trainers


def train_beside(mode: str, runs: Sequence[RunConfig], records: Path) -> str:
    """What `experiments.train` does, training in this process; returns the mirror's trouble."""
    process = MirrorProcess(Tracking(mode), records, folders_of(runs, records))
    train_runs(named(runs), records, 0.0, Watcher(prepared=process.start))
    return process.finish()


@dataclass
class Trainer:
    """A process that does what `experiments.train` does, and stops at an iteration until told to go on."""

    pid: int
    records: Path

    @classmethod
    def start(cls, mode: str, runs: Sequence[RunConfig], records: Path, halt: int = 0) -> "Trainer":
        records.mkdir(parents=True, exist_ok=True)
        gate, trouble = records / "gate", records / "trouble"
        gate.unlink(missing_ok=True)

        def moved(pack: Any, iteration: Any) -> None:
            if iteration.number == halt:
                wait_until(gate.exists)

        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                process = MirrorProcess(Tracking(mode), records, folders_of(runs, records))
                train_runs(named(runs), records, 0.0, Watcher(prepared=process.start, moved=moved))
                trouble.write_text(process.finish())
                code = 0
            finally:
                os._exit(code)
        return cls(pid, records)

    def go_on(self) -> None:
        (self.records / "gate").touch()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def end(self) -> str:
        """The mirror's trouble, once training has ended well."""
        self.go_on()
        assert os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) == 0
        return (self.records / "trouble").read_text()

    def mirror(self) -> int:
        return child(self.pid, "tracking.process")

    def core(self) -> int:
        """W&B's own process, which keeps the files and talks to the server."""
        return child(self.mirror(), "wandb-core")


def child(parent: int, word: str) -> int:
    """The child process whose command line has this word; waits for it."""
    found: list[int] = []

    def look() -> bool:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                is_child = int((path / "stat").read_text().rpartition(")")[2].split()[1]) == parent
                if is_child and word in (path / "cmdline").read_text():
                    found.append(int(path.name))
            except OSError:  # it ended meanwhile
                continue
        return bool(found)

    wait_until(look)
    return found[0]


# What W&B holds, and what it should hold


@dataclass
class Held:
    """Of one run, from a server or from files."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)
    episodes: bytes = b""


def wandb_id(folder: Path) -> str:
    head = json.loads((folder / "config.json").read_text())
    return f"{head['run_id']}-{head['code_id']}"


def on_server(server: Server, folder: Path) -> Held:
    assert not server.faults
    run = server.runs[wandb_id(folder)]
    names = {"name": run.name, "project": run.project, "group": run.group, "tags": run.tags}
    return Held(run.rows, run.settings, run.summary, names, run.files.get("episodes.csv", b""))


def in_files(records: Path, folder: Path) -> Held:
    run_id = wandb_id(folder)
    files = wandb_files.read_all(records, run_id)
    last = files[-1]
    names = {"name": last.name, "project": last.project, "group": last.group, "tags": last.tags}
    attached = sorted(records.glob(f"wandb/offline-run-*-{run_id}/files/episodes.csv"))
    episodes = attached[-1].read_bytes() if attached and "episodes.csv" in last.saved else b""
    rows = sorted((row for file in files for row in file.rows), key=lambda row: row["_step"])
    config = {name: value for name, value in last.config.items() if name != "_wandb"}
    return Held(rows, config, last.summary, names, episodes)


def expected_rows(folder: Path) -> list[dict[str, float]]:
    """Of a finished run, computed by pandas from its record."""
    done = json.loads((folder / "done.json").read_text())
    rows, episodes, timing = (
        pd.read_csv(folder / f"attempt-{done['attempt']}" / name, dtype=str).astype(float)
        for name in ("iterations.csv", "episodes.csv", "timing.csv")
    )
    steps = np.diff(rows["env_steps"], prepend=0)
    rows, timing = rows.set_index("iteration", drop=False), timing.set_index("iteration")
    # An episode belongs to the first iteration that ends at its last step or later.
    of = rows.index.to_numpy()[np.searchsorted(rows["env_steps"], episodes["env_step"])]
    rows["episodes"] = episodes.groupby(of).size().reindex(rows.index).fillna(0)
    rows["return"], rows["length"] = (episodes.groupby(of)[name].mean() for name in ("return", "length"))
    rows["return_100"] = episodes["return"].rolling(100, 1).mean().groupby(of).last().reindex(rows.index).ffill()
    for name in timing:
        rows[f"timing/{name}"] = timing[name]
    seconds = timing[["environment", "inference", "update"]].sum(axis=1)
    rows["timing/steps_per_second"] = steps * timing["pack_size"] / seconds
    return [{name: x for name, x in row.items() if np.isfinite(x)} for row in rows.to_dict("records")]


def assert_rows(held: Held, folder: Path, whole: bool = True) -> None:
    """Every iteration once, in order, with the record's values; a record made of several attempts has other timings
    than what was sent when the first ones had written it."""
    wanted = expected_rows(folder)
    steps = [row["_step"] for row in held.rows]
    assert steps == [row["iteration"] for row in wanted], f"{folder.name}: {steps} of {len(wanted)}"
    for row, want in zip(held.rows, wanted, strict=True):
        own = {name: value for name, value in row.items() if not name.startswith("_")}
        if not whole:
            own, want = ({n: x for n, x in some.items() if not n.startswith("timing/")} for some in (own, want))
        assert own.keys() == want.keys(), own.keys() ^ want.keys()
        for name, value in own.items():
            close = np.isclose(value, want[name], rtol=1e-12, atol=0) if name in MEANS else value == want[name]
            assert close, f"{folder.name}, iteration {row['_step']}: {name} is {value!r}, not {want[name]!r}"


def assert_complete(held: Held, folder: Path, whole: bool = True, tags: Sequence[str] = ()) -> None:
    """Rows, config, score, status, names and episodes of a finished run."""
    assert_rows(held, folder, whole)
    head = json.loads((folder / "config.json").read_text())
    done = json.loads((folder / "done.json").read_text())
    provenance = held.config["provenance"]
    whole = held.config["whole_numbers"]
    assert {"seed", "horizon"} <= set(whole) and not {"epsilon", "stepsize", "gamma"} & set(whole)
    about = {name: head[name] for name in ("format", "run_id", "code_id", "label", "names")}
    assert held.config == {**about, **head["config"], "whole_numbers": whole, "provenance": provenance}
    assert provenance["commit"] == json.loads((folder / "provenance.json").read_text())["commit"]
    assert "torch" in provenance["packages"] and "diff" not in provenance and "environment" not in provenance
    for name in ("status", "score", "attempt", "env_steps", "episodes_sha256", "iterations_sha256"):
        assert held.summary[name] == done[name], name
    slug = folder.name.rpartition("-")[0]
    group = f"{head['config']['env']['id']}/{slug.rpartition('.')[0].rpartition('-')[2]}"
    assert held.names == {"name": slug, "project": "ppo", "group": group, "tags": list(tags)}
    assert held.episodes == (folder / f"attempt-{done['attempt']}" / "episodes.csv").read_bytes()


def copied(records: Path, to: Path) -> tuple[Path, list[Path]]:
    """Records of one's own, and their runs."""
    shutil.copytree(records, to)
    return to, sorted(path.parent for path in to.glob("runs/*/*/config.json"))


def assert_key_is_in_no_file(records: Path) -> None:
    for path in records.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def ending(records: Path) -> str:
    """How a mirror's log says that its runs ended: '2 complete'."""
    return (records / "wandb" / "mirror.log").read_text().splitlines()[-1].rpartition(": ")[2]
