"""A dataset: what analysis reads. Three tidy parquet tables and a note on where they come from.

    runs        one row per run
    episodes    one row per finished episode: run, env_step (of the run, at the episode's end), return (raw,
                undiscounted reward), length (env steps)
    iterations  one row per iteration of the training loop: run, iteration, env_steps and the diagnostics
    dataset.json  schema version, sources, and what was left out and why

`run` is `<run id>-<code id>`, the same key in all three. Runs stand in the order of their sources, a study's in its
manifest's and a folder's by path; the rows of a run stand together, by time. Counts of steps are int64 (lengths
int32), everything measured is float64. A diagnostic that a run does not have is NaN.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.records import RecordError

SCHEMA = 1
FILES = ("runs.parquet", "episodes.parquet", "iterations.parquet", "dataset.json")

RUN_COLUMNS = {
    "run": "key: run id and code id",
    "run_id": "hash of all that changes the run's numbers",
    "code_id": "digest of the algorithm's code and the packages beneath it",
    "variant": "name of the algorithm's setting, such as clip_0.2",
    "env": "task with its version, such as Hopper-v4",
    "profile": "name of the implementation details",
    "seed": "",
    "status": "complete | diverged | faulty | partial",
    "not_finite": "what was first no finite number, such as: rewards at env step 5; empty if nothing was",
    "measure": "what the rows of `episodes` are: training episodes | evaluation episodes | running means",
    "budget": "env steps asked for",
    "env_steps": "env steps taken",
    "episodes": "finished episodes",
    "score": "mean return of the last 100 finished episodes (fewer if there are fewer); NaN if none or infinite",
    "score_episodes": "how many episodes the score is the mean of",
    "seconds": "wall seconds of its pack's iterations, divided by the pack's size",
    "peak_mb": "largest resident memory of its pack's process, MB; NaN if it is not known",
    "backend": "envpool | gymnasium",
    "numerics": "exact | fast",
    "device": "cpu | cuda",
    "commit": "of the code; with + if it had uncommitted changes",
    "host": "where it was first trained",
    "cpu": "",
    "gpu": "",
    "config": "all settings, as JSON",
    "source": "where the rows were read",
}
"""Columns of `runs` and what they mean."""

NUMBERS = {
    **dict.fromkeys(("seed", "budget", "env_steps", "episodes", "score_episodes"), pa.int64()),
    **dict.fromkeys(("score", "seconds", "peak_mb"), pa.float64()),
}
RUNS = pa.schema([(name, NUMBERS.get(name, pa.string())) for name in RUN_COLUMNS])
"""Types of `runs`: what is no number is text."""

SCORE_EPISODES = 100  # the score is the mean return of a run's last 100 episodes (section 6.1)
NAMED = 3  # variants that are missing on a task; more are counted


@dataclass(frozen=True)
class Dataset:
    """`runs` and the note; the long tables stay in their files until somebody reads them."""

    folder: Path
    runs: pd.DataFrame
    note: dict[str, Any]

    def batches(self, table: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """A long table piece by piece, `run` as a dictionary: ten thousand runs do not fit in memory at once."""
        for part in parts_of(self.folder):
            file = pq.ParquetFile(part / f"{table}.parquet", read_dictionary=["run"])
            yield from file.iter_batches(columns=["run", *columns])

    def read(self, table: str) -> pd.DataFrame:
        """The whole of a long table."""
        tables = [pd.read_parquet(part / f"{table}.parquet") for part in parts_of(self.folder)]
        return pd.concat(tables, ignore_index=True)


def parts_of(folder: Path) -> list[Path]:
    """The folder itself, or those of its parts, FOLDER/TASK/PART; see `analysis.parts`."""
    if (folder / "dataset.json").exists():
        return [folder]
    return sorted(path.parent for path in folder.glob("*/*/dataset.json")) or [folder]


def load(folder: Path) -> Dataset:
    """A dataset from its folder, or from the folder of its parts. Their note has all `studies` that they are of; the
    one that the folder is named after is its `study`, and names the cells that are not there. RecordError says what is
    missing of a dataset."""
    if (parts := parts_of(folder)) == [folder]:
        return load_part(folder)
    loaded = [load_part(part) for part in parts]
    runs = pd.concat([part.runs for part in loaded], ignore_index=True)
    studies: dict[str, Mapping[str, Any]] = {}
    for study in sorted((part.note["study"] for part in loaded), key=lambda study: len(study["overrides"])):
        studies.setdefault(study["name"], study)  # of one launched in several ways, the plainest
    study = studies.get(folder.resolve().name, loaded[-1].note["study"])
    absent = absent_cells(runs, study)
    note = {
        **loaded[-1].note,
        "sources": sorted({source for part in loaded for source in part.note["sources"]}),
        "study": study,
        "studies": list(studies.values()),
        "left_out": {"missing": absent} if absent else {},
    }
    return Dataset(folder, runs, note)


def absent_cells(runs: pd.DataFrame, study: Mapping[str, Any]) -> list[str]:
    """A study's cells without runs, in words: tasks that lack the same variants, or as many, together."""
    there, all_variants = set(zip(runs["variant"], runs["env"], strict=True)), study["variants"]
    tasks: dict[str, list[str]] = {}
    for env in study["environments"]:
        absent = [variant for variant in all_variants if (variant, env) not in there]
        many = f"{len(absent)} of {len(all_variants)} variants" if len(absent) < len(all_variants) else "all variants"
        if absent:
            tasks.setdefault(", ".join(absent) if len(absent) <= NAMED else many, []).append(env)
    return [f"{variants} on {', '.join(envs)}" for variants, envs in tasks.items()]


def load_part(folder: Path) -> Dataset:
    """A dataset from the folder that holds its files."""
    missing = [name for name in FILES if not (folder / name).exists()]
    if missing:
        raise RecordError(f"{folder} is no dataset (no {missing[0]}); python -m analysis.collect makes one")
    try:
        note = json.loads((folder / "dataset.json").read_text())
        runs = pd.read_parquet(folder / "runs.parquet")
    except (ValueError, OSError) as error:
        raise RecordError(f"{folder} cannot be read ({error}); collect it anew") from error
    if note.get("schema") != SCHEMA:
        raise RecordError(f"{folder} has schema {note.get('schema')}, and this code reads {SCHEMA}; collect it anew")
    return Dataset(folder, runs, note)
