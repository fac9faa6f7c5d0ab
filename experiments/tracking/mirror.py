"""W&B as a mirror of records: every row once, whoever is killed when.

    record ──rows that a checkpoint covers──▶ W&B run, id = run id + code id

The record is the truth and knows nothing of this file. A row is sent once a checkpoint covers it, so that nothing W&B
saw is ever cut by a resume. Where to go on is asked of W&B itself: online, the server says which step comes next;
offline, what earlier processes wrote is read back, as W&B starts a new file for each. A cursor on disk keeps what was
confirmed, so that a run mirrored to its end is not touched again.

Used by `experiments.tracking.process` beside a pack, and by `experiments.sync` later.
"""

import csv
import io
import json
import math
import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import wandb
from wandb.util import get_core_path

from experiments.files import as_json, numbered_in, read_json, write_durably
from experiments.identity import NUMERIC_PACKAGES
from experiments.records.schema import SCORE_EPISODES, SPENT, Done, Head, score, whole_numbers

INIT_SECONDS = 30.0
FINISH_SECONDS = 30.0  # `finish` would wait for ever for a server that has gone
FLUSH_SECONDS = 1.0  # how long wandb-core keeps rows before it writes them
READERS = threading.Semaphore(2)  # 30 MB each, and a pack's 33 runs end together


@dataclass(frozen=True)
class Target:
    """Where mirrored runs go."""

    records: Path
    mode: Literal["offline", "online"]
    project: str
    entity: str | None

    @property
    def place(self) -> str:
        """What a cursor is good for: one project of one server, or the files of one folder."""
        if self.mode == "offline":
            return "offline"
        return f"{os.environ.get('WANDB_BASE_URL', 'default')} {self.entity or 'default'} {self.project}"


class Source:
    """A run's record as the mirror reads it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.head: Head = read_json(folder / "config.json")
        self.id = f"{self.head['run_id']}-{self.head['code_id']}"
        self.reading: Reading | None = None

    def done(self) -> Done | None:
        path = self.folder / "done.json"
        return read_json(path) if path.exists() else None

    def covered(self) -> tuple[Path, float]:
        """The attempt to read, and the last iteration of it that no resume can cut; 0 while there is none."""
        if (done := self.done()) is not None:
            return self.folder / f"attempt-{done['attempt']}", math.inf
        attempts = [self.folder / f"attempt-{number}" for number in numbered_in(self.folder, "attempt-")]
        found = {attempt: max(numbered_in(attempt, "checkpoint-", ".pt"), default=0) for attempt in attempts}
        newest = max(found, key=found.__getitem__, default=self.folder)
        return newest, found.get(newest, 0)

    def rows(self, after: int) -> Iterator[dict[str, float]]:
        """One row per covered iteration past `after`: its diagnostics, the episodes it finished, its timing."""
        attempt, upto = self.covered()
        if upto <= after:
            return
        if self.reading is None or self.reading.attempt != attempt:
            self.reading = Reading(attempt)
        for row in self.reading.rows(upto):
            if row["iteration"] > after:
                yield row

    def config(self) -> dict[str, Any]:
        """What the run is and where it was trained, for people to filter by. The uncommitted diff stays at home."""
        seen = read_json(self.folder / "provenance.json")
        packages = {name: version for name, version in seen["packages"].items() if name.lower() in NUMERIC_PACKAGES}
        kept = ("commit", "dirty", "python", "host", "system", "cpu", "cpu_capability", "gpu")
        return {
            **{name: value for name, value in self.head.items() if name != "config"},
            **self.head["config"],
            "whole_numbers": whole_numbers(self.head["config"]),
            "provenance": {**{name: seen[name] for name in kept}, "packages": packages},
        }

    def group(self) -> str:
        config = self.head["config"]
        label = self.head.get("label") or config["algo"]["objective"]  # older records say none
        return f"{config['env']['id']}/{label}"


class Reading:
    """An attempt's rows, each read once: its files only grow."""

    def __init__(self, attempt: Path):
        self.attempt = attempt
        self.files = {name: Tail(attempt / f"{name}.csv") for name in ("episodes", "timing", "iterations")}
        self.recent: deque[float] = deque(maxlen=SCORE_EPISODES)
        self.env_steps = 0.0

    def rows(self, upto: float) -> Iterator[dict[str, float]]:
        """The next iterations, `upto` included."""
        for file in self.files.values():
            file.read()
        episodes, timing, iterations = (file.rows for file in self.files.values())
        while iterations and iterations[0]["iteration"] <= upto:
            row = iterations.popleft()
            finished = []
            while episodes and episodes[0]["env_step"] <= row["env_steps"]:
                finished.append(episodes.popleft())
            self.recent.extend(episode["return"] for episode in finished)
            row["episodes"] = len(finished)
            if finished:
                row["return"] = fmean(episode["return"] for episode in finished)
                row["length"] = fmean(episode["length"] for episode in finished)
            if (mean := score(list(self.recent))) is not None:
                row[f"return_{SCORE_EPISODES}"] = mean
            while timing and timing[0]["iteration"] < row["iteration"]:
                timing.popleft()
            seconds = timing.popleft() if timing and timing[0]["iteration"] == row["iteration"] else {}
            row |= {f"timing/{name}": value for name, value in seconds.items() if name != "iteration"}
            if spent := sum(seconds.get(part, 0.0) for part in SPENT):
                row["timing/steps_per_second"] = (row["env_steps"] - self.env_steps) * seconds["pack_size"] / spent
            self.env_steps = row["env_steps"]
            yield {name: value for name, value in row.items() if math.isfinite(value)}


class Tail:
    """A CSV file that is being written: whole lines as they come, empty cells left out."""

    def __init__(self, path: Path):
        self.path = path
        self.offset = 0
        self.header: list[str] = []
        self.rows: deque[dict[str, float]] = deque()

    def read(self) -> None:
        """Take in the lines that have been finished since the last time."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return
        self.offset += len(whole) + 1
        lines = list(csv.reader(io.StringIO(whole.decode())))
        if not self.header:
            self.header = lines.pop(0)
        for cells in lines:
            self.rows.append({name: float(cell) for name, cell in zip(self.header, cells, strict=True) if cell})


def studies_of(records: Path, run_id: str) -> list[str]:
    """Names of the studies whose manifest has this run."""
    manifests = sorted((records / "studies").glob("*/manifest.jsonl"))
    return [path.parent.name for path in manifests if f'"{run_id}"' in manifest_text(path, path.stat().st_mtime_ns)]


@lru_cache(maxsize=8)
def manifest_text(path: Path, _written: int) -> str:
    """Read once for a pack's runs, and again when it has grown."""
    return path.read_text()


class Mirror:
    """One run's W&B side: open, pump, close. Whoever calls must hold the claim on `claim_path`."""

    def __init__(self, source: Source, target: Target):
        self.source, self.target = source, target
        root = target.records / "wandb"
        self.cursor = root / "cursors" / f"{source.id}-{target.mode}.json"
        self.claim_path = root / "claims" / f"{source.id}-{target.mode}"
        self.run: Any = None
        self.sent = self.began = 0  # the last iteration handed to W&B; the same when it was opened

    def confirmed(self) -> dict[str, Any]:
        """The cursor, if it is this target's."""
        found = read_json(self.cursor) if self.cursor.exists() else {}
        return found if found.get("place") == self.target.place else {"iteration": 0, "complete": False}

    def open(self) -> None:
        """Start or continue the W&B run, from what W&B holds of it."""
        self.source.reading = None
        settings = wandb.Settings(
            console="off", quiet=True, silent=True, symlink=False, disable_git=True, disable_code=True,
            x_disable_stats=True, x_disable_machine_info=True, x_disable_meta=True, x_save_requirements=False,
            x_transaction_log_flush_interval=FLUSH_SECONDS, init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS, finish_timeout_raises=True,
        )  # fmt: skip
        self.target.records.joinpath("wandb").mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            id=self.source.id,
            name=self.source.folder.name.removesuffix(f"-{self.source.head['run_id']}"),
            project=self.target.project,
            entity=self.target.entity,
            group=self.source.group(),
            tags=studies_of(self.target.records, self.source.head["run_id"]),
            config=self.source.config(),
            mode=self.target.mode,
            resume=None if self.target.mode == "offline" else "allow",
            reinit="create_new",
            dir=self.target.records,
            settings=settings,
        )
        self.run.define_metric("*", step_metric="env_steps")
        if self.target.mode == "offline":
            earlier = self.target.records.glob(f"wandb/offline-run-*-{self.source.id}/run-{self.source.id}.wandb")
            others = [path for path in earlier if path.parent != Path(self.run.dir).parent]
            self.sent = max([self.confirmed()["iteration"], *map(steps_left_behind, others)])
        else:
            self.sent = max(self.run.starting_step - 1, 0)
        self.began = self.sent

    def drop(self) -> None:
        """After a failure: let go of the W&B run, to open it anew."""
        if self.run is not None:
            with suppress(Exception):
                self.run.finish(exit_code=1)
            self.run = None

    def pump(self) -> None:
        """Hand over the rows that have become final."""
        for row in self.source.rows(self.sent):
            self.sent = int(row["iteration"])
            row |= {"iteration": self.sent, "env_steps": int(row["env_steps"])}
            self.run.log(row, step=self.sent, commit=True)

    def close(self) -> None:
        """Finish the W&B run, with score and episodes if the run is done, and confirm what it holds."""
        done = self.source.done()
        self.pump()
        if done is not None:
            attempt = self.source.folder / f"attempt-{done['attempt']}"
            self.run.save(str(attempt / "episodes.csv"), base_path=str(attempt), policy="now", glob=False)
            self.run.summary.update({name: done[name] for name in ("status", "score", "attempt", "env_steps")})
            self.run.summary.update({name: done[name] for name in ("episodes_sha256", "iterations_sha256")})
            if "not_finite" in done:
                self.run.summary.update({"not_finite": done["not_finite"]})
            if (resources := attempt / "resources.json").exists():
                self.run.summary.update(read_json(resources))
        self.run.finish(exit_code=0 if done is not None else 1)
        self.check(done is not None)
        self.cursor.parent.mkdir(parents=True, exist_ok=True)
        confirmed = {"place": self.target.place, "iteration": self.sent, "complete": done is not None}
        write_durably(self.cursor, as_json(confirmed))

    def check(self, done: bool) -> None:
        """Ask W&B for what it holds: `finish` also returns when the server refused, or before a file is written."""
        if self.target.mode == "online":
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
