"""What a tracker may show of a run, read from its record: rows as they become final, the ending, and what the run is.

A row is final once a checkpoint covers it: until then a resume may train it again. Nothing here knows a tracker.
"""

import csv
import io
import math
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from experiments.files import numbered_in, read_json
from experiments.identity import NUMERIC_PACKAGES
from experiments.records.schema import SCORE_EPISODES, SPENT, Done, Head, score, whole_numbers

SUMMARY = ("status", "score", "attempt", "env_steps", "episodes_sha256", "iterations_sha256", "not_finite")
"""Of done.json, what a tracker shows."""


class Ending(NamedTuple):
    """What is known of a run once it is finished: the values of SUMMARY and its resources, and its episodes.csv."""

    summary: dict[str, Any]
    episodes: Path


class Source:
    """A run's record, as far as no resume can change it."""

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

    def ending(self) -> Ending | None:
        """What a finished run has beside its rows; None while there is more to come."""
        if (done := self.done()) is None:
            return None
        attempt = self.folder / f"attempt-{done['attempt']}"
        summary: dict[str, Any] = {name: value for name, value in done.items() if name in SUMMARY}
        if (resources := attempt / "resources.json").exists():
            summary |= read_json(resources)
        return Ending(summary, attempt / "episodes.csv")

    def name(self) -> str:
        """For people: the folder's, without the run id."""
        return self.folder.name.removesuffix(f"-{self.head['run_id']}")

    def studies(self) -> list[str]:
        """Names of the studies whose manifest has this run."""
        manifests = sorted((self.folder.parents[2] / "studies").glob("*/manifest.jsonl"))
        mark = f'"{self.head["run_id"]}"'
        return [path.parent.name for path in manifests if mark in manifest_text(path, path.stat().st_mtime_ns)]

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
        """The same for all seeds of a setting on a task."""
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


@lru_cache(maxsize=8)
def manifest_text(path: Path, _written: int) -> str:
    """Read once for a pack's runs, and again when it has grown."""
    return path.read_text()
