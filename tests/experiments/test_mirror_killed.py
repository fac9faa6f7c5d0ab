"""Whoever is killed, the same command again sends every row once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mirrored import (
    KEY,
    Trainer,
    assert_complete,
    assert_key_is_in_no_file,
    ending,
    folders_of,
    hurry_processes,
    in_files,
    on_server,
    run_of,
    served,
)
from test_resume import wait_until
from wandb_server import Server

from tests.conftest import ROOT, promised


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with served(monkeypatch, tmp_path / "home") as server:
        yield server


VICTIMS = ("mirror", "mirror core", "trainer", "trainer mirror core")  # core: W&B's own process under the mirror


@pytest.mark.parametrize("mode", ["offline", "online"])
@pytest.mark.parametrize("victims", VICTIMS)
def test_kill_9_of_anyone_and_the_same_command_again_sends_every_row_once(
    mode: str, victims: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Any
) -> None:
    hurry_processes(monkeypatch)
    runs, records = [run_of(0, 8), run_of(1, 8)], tmp_path / "records"
    folders = folders_of(runs, records)
    trainer = Trainer.start(mode, runs, records, halt=4)
    held = {"offline": lambda folder: in_files(records, folder), "online": lambda folder: on_server(server, folder)}[
        mode
    ]
    wait_until(lambda: all(started(mode, server, records, folder) and held(folder).rows for folder in folders))
    pids = {"mirror": trainer.mirror(), "core": trainer.core()}
    if "trainer" in victims:
        trainer.kill()
    for name in ("mirror", "core"):
        if name in victims:
            os.kill(pids[name], signal.SIGKILL)
    if "trainer" not in victims:
        assert "python -m experiments.sync" in trainer.end()
        assert promised(runs, records) == undisturbed(runs)
        assert any(len(held(folder).rows) < 8 for folder in folders), "the mirror was killed too late to show anything"
    assert Trainer.start(mode, runs, records).end() == ""
    assert promised(runs, records) == undisturbed(runs)
    for folder in folders:
        assert_complete(held(folder), folder, whole="trainer" not in victims)


def started(mode: str, server: Server, records: Path, folder: Path) -> bool:
    run_id = f"{folder.name.rpartition('-')[2]}-{folder.parent.name}"
    if mode == "online":
        return run_id in server.runs
    return any(records.glob(f"wandb/offline-run-*-{run_id}/*.wandb"))


def test_the_command_killed_at_a_random_moment_and_given_again_sends_every_row_once(
    server: Server, tmp_path: Path
) -> None:
    records = tmp_path / "records"
    small = ("env=reacher", "env_steps=12_288", "profile.horizon=512", "checkpoint_seconds=0.1", "num_seeds=2")
    command = [sys.executable, "-m", "experiments.train", *small, f"records={records}", "tracking=wandb_online"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: any(records.rglob("checkpoint-*.pt")))
    time.sleep(np.random.default_rng().uniform(0, 1))
    process.kill()
    process.wait()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert ending(records) == "2 complete"
    assert "experiments.sync" not in done.stderr
    for config in records.glob("runs/*/*/config.json"):
        assert_complete(on_server(server, config.parent), config.parent, whole=False)
    assert KEY not in done.stdout + done.stderr
    assert_key_is_in_no_file(records)
