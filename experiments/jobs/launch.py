"""A launch: which runs form which task, frozen with the code that will train them.

    studies/NAME/manifest.jsonl             the study's runs
                 study.json                 what it is, and the code id of the command given last
                 code/<digest>/             the code as it was; later edits of the checkout change no pending job
                 launches/<n>/launch.json   where and how; written last
                              tasks.jsonl   one line per task (an array index): packs of run ids
                              logs/         one file per task, appended to

The code is addressed by its content, so launches of the same code share it.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from experiments.files import as_json, numbered_in, read_json, read_lines, write_durably
from experiments.identity import code_id
from experiments.manifest import Entry, read_manifest
from experiments.records.provenance import ROOT, origin
from ppo.refusals import UserError

PACKAGES = ("ppo", "experiments", "analysis", "conf")

Task = list[list[str]]  # packs of run ids


class LaunchTerms(TypedDict):
    """Where and how a launch runs: what every task of it must know."""

    cluster: str  # local | slurm
    tracking: dict[str, Any]  # of tracking.settings.Tracking
    checkpoint_seconds: float
    overrides: list[str]  # of the study command
    config_dir: list[str]  # its option for a user's own configs, if it had one
    path: NotRequired[list[str]]  # folders of a user's modules; older launches do not say them
    requeue: bool
    array_size: int | None  # tasks of an array job
    parts: NotRequired[str | None]  # folder of a dataset's parts; older launches do not say it


class LaunchHead(LaunchTerms):
    """launch.json."""

    code: str  # folder of the code as it was
    code_id: str


@dataclass(frozen=True)
class Launch:
    """A frozen launch, as its tasks read it."""

    folder: Path

    @property
    def study(self) -> Path:
        return self.folder.parent.parent

    @property
    def records(self) -> Path:
        return self.study.parent.parent

    def head(self) -> LaunchHead:
        return read_json(self.folder / "launch.json")

    def tasks(self) -> list[Task]:
        return [line["packs"] for line in read_lines(self.folder / "tasks.jsonl")]

    def entries(self, ids: Sequence[str]) -> list[Entry]:
        """The runs with these ids, in this order."""
        by_id = {entry.run_id: entry for entry in read_manifest(self.study)}
        if unknown := [run for run in ids if run not in by_id]:
            raise UserError(f"{self.study}/manifest.jsonl has no run {', '.join(unknown)}")
        return [by_id[run] for run in ids]

    def log(self, index: int) -> Path:
        """A task's log. An array job knows only its own offset and index, so both stand in the name."""
        size = self.head()["array_size"]
        name = str(index) if size is None else f"{index // size * size}+{index % size}"
        return self.folder / "logs" / f"{name}.log"


def launches_of(study: Path) -> list[Launch]:
    """Complete launches, newest first."""
    folders = [study / "launches" / str(number) for number in numbered_in(study / "launches", "")]
    return [Launch(folder) for folder in folders if (folder / "launch.json").exists()]


def check_code(head: LaunchHead) -> None:
    """The code here must be the launch's: a package upgraded since then would compute other numbers."""
    if code_id() != head["code_id"]:
        raise UserError(
            f"this launch was made with code id {head['code_id']}, and here it is {code_id()}: a package under it has "
            "changed; give the study command again, which launches again"
        )


def freeze_launch(study: Path, tasks: Sequence[Task], terms: LaunchTerms) -> Launch:
    """Write a new launch."""
    code = snapshot(study / "code")
    launches = study / "launches"
    launches.mkdir(parents=True, exist_ok=True)
    number = max(numbered_in(launches, ""), default=0) + 1
    folder = launches / str(number)
    folder.mkdir()
    (folder / "logs").mkdir()
    lines = "".join(json.dumps({"packs": task}) + "\n" for task in tasks)
    write_durably(folder / "tasks.jsonl", lines.encode())
    head: LaunchHead = {"code": str(code), "code_id": code_id(), **terms}
    write_durably(folder / "launch.json", as_json(head))
    return Launch(folder)


def snapshot(folder: Path) -> Path:
    """A copy of the packages and where they come from, in a folder named by their content."""
    files = sorted(source_files())
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    target = folder / digest.hexdigest()[:12]
    if target.exists():
        return target
    building = folder / f".{target.name}"
    shutil.rmtree(building, ignore_errors=True)
    for path in files:
        copy = building / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    write_durably(building / "origin.json", as_json(origin()))
    building.replace(target)
    return target


def source_files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (path for path in (ROOT / package).rglob("*") if path.suffix in (".py", ".yaml", ".csv"))
