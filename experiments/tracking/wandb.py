"""Weights & Biases as a sink of records: run = run id + code id, offline in files or on a server.

Where to go on is asked of W&B itself: online, the server says which step comes next; offline, what earlier processes
wrote is read back, as W&B starts a new file for each.
"""

import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import wandb
from wandb.util import get_core_path

from experiments.tracking.mirror import Target
from experiments.tracking.reading import Ending, Source

INIT_SECONDS = 30.0
FINISH_SECONDS = 30.0  # `finish` would wait for ever for a server that has gone
FLUSH_SECONDS = 1.0  # how long wandb-core keeps rows before it writes them
READERS = threading.Semaphore(2)  # 30 MB each, and a pack's 33 runs end together
KEPT_ENVIRONMENT = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_HTTP_PROXY", "WANDB_HTTPS_PROXY", "WANDB_CONFIG_DIR")

Mode = Literal["offline", "online"]


def target_of(records: Path, mode: Mode, project: str, entity: str | None) -> Target:
    """One project of one server, or the files of one folder."""
    server = f"{os.environ.get('WANDB_BASE_URL', 'default')} {entity or 'default'} {project}"
    place = "offline" if mode == "offline" else server
    return Target(
        records / "wandb", mode, place, lambda source: WandbRun(source, records, mode, project, entity), forget_core
    )


@dataclass
class WandbRun:
    """One run's W&B side, a Sink."""

    source: Source
    records: Path
    mode: Mode
    project: str
    entity: str | None
    run: Any = None
    began: int = 0  # the last iteration that W&B held when it was opened
    sent: int = 0  # the last one handed over

    def open(self, confirmed: int) -> int:
        settings = wandb.Settings(
            console="off", quiet=True, silent=True, symlink=False, disable_git=True, disable_code=True,
            x_disable_stats=True, x_disable_machine_info=True, x_disable_meta=True, x_save_requirements=False,
            x_transaction_log_flush_interval=FLUSH_SECONDS, init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS, finish_timeout_raises=True,
        )  # fmt: skip
        self.records.joinpath("wandb").mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            id=self.source.id,
            name=self.source.name(),
            project=self.project,
            entity=self.entity,
            group=self.source.group(),
            tags=self.source.studies(),
            config=self.source.config(),
            mode=self.mode,
            resume=None if self.mode == "offline" else "allow",
            reinit="create_new",
            dir=self.records,
            settings=settings,
        )
        self.run.define_metric("*", step_metric="env_steps")
        if self.mode == "offline":
            earlier = self.records.glob(f"wandb/offline-run-*-{self.source.id}/run-{self.source.id}.wandb")
            others = [path for path in earlier if path.parent != Path(self.run.dir).parent]
            self.began = max([confirmed, *map(steps_left_behind, others)])
        else:
            self.began = max(self.run.starting_step - 1, 0)
        self.sent = self.began
        return self.began

    def drop(self) -> None:
        if self.run is not None:
            with suppress(Exception):
                self.run.finish(exit_code=1)
            self.run = None

    def log(self, row: Mapping[str, float]) -> None:
        self.sent = int(row["iteration"])
        self.run.log(dict(row), step=self.sent, commit=True)

    def close(self, ending: Ending | None) -> None:
        if ending is not None:
            folder = str(ending.episodes.parent)
            self.run.save(str(ending.episodes), base_path=folder, policy="now", glob=False)
            self.run.summary.update(ending.summary)
        self.run.finish(exit_code=0 if ending is not None else 1)
        self.check(ending is not None)

    def check(self, done: bool) -> None:
        """Ask W&B for what it holds: `finish` also returns when the server refused, or before a file is written."""
        if self.mode == "online":
            held = wandb.Api(timeout=int(INIT_SECONDS)).run(self.run.path)
            if (last := max(held.lastHistoryStep, 0)) < self.sent:
                raise TimeoutError(f"the server holds {last} of {self.sent} rows")
            if done and not [file for file in held.files(names=["episodes.csv"]) if file.size]:
                raise TimeoutError("the server does not hold episodes.csv")
            return
        path = Path(self.run.dir).parent / f"run-{self.source.id}.wandb"
        deadline = time.monotonic() + FINISH_SECONDS
        while steps_in(path) < (self.sent if self.sent > self.began else 0, True):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} was not written to its end, row {self.sent}")
            time.sleep(0.1)


def steps_in(path: Path) -> tuple[int, bool]:
    """The last step in a .wandb file, torn or whole, and whether its end is written."""
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file", str(path)]
    with READERS:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    records = [json.loads(line) for line in lines if '"type":"history"' in line or '"type":"exit"' in line]
    steps = [record["history"]["step"]["num"] for record in records if record["type"] == "history"]
    return max(steps, default=0), any(record["type"] == "exit" for record in records)


def steps_left_behind(path: Path) -> int:
    """The same of an earlier process's file, once a wandb-core left behind has flushed what it has."""
    while time.time() - path.stat().st_mtime < 2 * FLUSH_SECONDS:
        time.sleep(0.2)
    return steps_in(path)[0]


def forget_core() -> None:
    """End wandb-core: after a failure it may still hold the id of a run that could not start."""
    with suppress(Exception):
        wandb.teardown(exit_code=1)


def drop_settings_of_others() -> None:
    """Inside a job or a sweep, WANDB_RUN_ID and its like would rename, regroup or silence every run of the pack."""
    for name in [name for name in os.environ if name.startswith("WANDB_") and name not in KEPT_ENVIRONMENT]:
        del os.environ[name]
