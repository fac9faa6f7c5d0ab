"""Reading what runs left behind. Files only; a run still in training is read as far as it has come."""

import io
import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.refusals import RecordError as RecordError
from experiments.records.schema import Done, Head, newer

LARGEST = 1 << 30  # bytes of a file that is read
LARGEST_JSON = 1 << 24  # bytes of a JSON file
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading a file of another kind than it should be may raise."""


def read_whole(path: Path, most: int = LARGEST) -> bytes:
    """A file's bytes. ValueError if it is no plain file, or larger than any of its kind should be."""
    with path.open("rb") as file:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path} is no plain file")
        text = file.read(min(most, path.stat().st_size) + 1)
    if len(text) > most:
        raise ValueError(f"{path} has more than {most >> 20:,} MiB, and larger files are not read")
    return text


def read_json(path: Path) -> Any:
    """A JSON file's content."""
    return json.loads(read_whole(path, LARGEST_JSON))


@dataclass(frozen=True)
class Run:
    """One run's folder, as far as plots and tables need it."""

    folder: Path
    config: dict[str, Any]  # the resolved settings: algo, profile, env, seed, env_steps, …
    names: dict[str, str]  # what was picked from conf/
    code_id: str
    variant: str  # the objective with its setting: clip_0.2
    done: Done | None

    @property
    def attempt(self) -> Path:
        """The attempt that counts: the one that finished, else the newest."""
        if self.done is not None:
            return self.folder / f"attempt-{self.done['attempt']}"
        return attempts_with("episodes.csv", self.folder)[-1]

    def episodes(self) -> pd.DataFrame:
        """env_step, return, length: one row per finished episode."""
        return self._table("episodes.csv")

    def iterations(self) -> pd.DataFrame:
        """One row of diagnostics per iteration."""
        return self._table("iterations.csv")

    def _table(self, name: str) -> pd.DataFrame:
        try:
            whole_lines = read_whole(self.attempt / name).decode().rpartition("\n")[0] + "\n"
            return pd.read_csv(io.StringIO(whole_lines))
        except (OSError, ValueError) as error:
            raise RecordError(f"{self.attempt / name} cannot be read ({' '.join(str(error).split())})") from error


def attempts_with(name: str, folder: Path) -> list[Path]:
    """A run's attempts that hold a file of this name, the newest last; copies that somebody made are none."""
    found = [path.parent for path in folder.glob(f"attempt-*/{name}")]
    whole = [path for path in found if path.name.removeprefix("attempt-").isdecimal()]
    return sorted(whole, key=lambda path: int(path.name.removeprefix("attempt-")))


def variant_of(algo: Mapping[str, Any]) -> str:
    """The objective with its setting, for records that do not say their label: clip_0.2."""
    setting = {"clip": "epsilon", "kl_fixed": "beta", "kl_adaptive": "kl_target"}.get(algo["objective"])
    return str(algo["objective"]) if setting is None else f"{algo['objective']}_{algo[setting]:g}"


def find_runs(places: Sequence[Path]) -> list[Run]:
    """Every run under the given folders (a records root, or any folder inside), in a stable order."""
    found = sorted(set(_folders(places)))
    if not found:
        raise RecordError(f"no run under {', '.join(map(str, places))}; train one first")
    return [_read(folder) for folder in found]


def _folders(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        if not place.is_dir():
            raise RecordError(f"{place} is not a folder of records")
        root = place / "runs" if (place / "runs").is_dir() else place
        for config in root.rglob("config.json"):
            if attempts_with("episodes.csv", config.parent):
                yield config.parent


def _read(folder: Path) -> Run:
    try:
        head: Head = read_json(folder / "config.json")
        if reason := newer(head):
            raise RecordError(f"{folder} is of newer code: {reason}")
        done = folder / "done.json"
        finished: Done | None = read_json(done) if done.exists() else None
        if finished is not None and type(finished["attempt"]) is not int:
            raise ValueError("the attempt of done.json is no whole number")
        variant = head.get("label") or variant_of(head["config"]["algo"])
        return Run(folder, head["config"], head["names"], head["code_id"], variant, finished)
    except UNREADABLE as error:
        raise RecordError(f"{folder}: config.json or done.json is not a record's ({error!r})") from error
