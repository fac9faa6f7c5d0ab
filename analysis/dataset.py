"""A dataset: what analysis reads. Three tidy parquet tables and a note on where they come from.

    runs        one row per run
    episodes    one row per finished episode: run, env_step (of the run, at the episode's end), return (raw,
                undiscounted reward), length (env steps)
    iterations  one row per iteration of the training loop: run, iteration, env_steps and the diagnostics
    dataset.json  schema version, sources, what was left out and why, and which seeds were numbered by their place

`run` is `<run id>-<code id>`, the same key in all three. Runs stand in the order of their sources, a study's in its
manifest's and a folder's by path; the rows of a run stand together, by time. Counts of steps are int64 (lengths
int32), everything measured is float64. A diagnostic that a run does not have is NaN.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.records import LARGEST, UNREADABLE, RecordError, read_json
from experiments.records.schema import FINISHED, SCORE_EPISODES

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
    "status": " | ".join([*FINISHED, "partial"]),
    "not_finite": "what was first no finite number, such as: rewards at env step 5; empty if nothing was",
    "measure": "what the rows of `episodes` are: training episodes | evaluation episodes | running means",
    "budget": "env steps asked for",
    "env_steps": "env steps taken",
    "episodes": "finished episodes",
    "score": f"mean return of the last {SCORE_EPISODES} finished episodes (fewer if there are fewer); NaN if none or "
    "infinite",
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

COLUMNS = {
    "runs": [name for name in RUN_COLUMNS if name != "not_finite"],  # which datasets of older code lack
    "episodes": ["run", "env_step", "return", "length"],
    "iterations": ["run", "iteration", "env_steps"],
}
"""Columns that each table must have."""

PART_NAME = re.compile(r".+\.s\d+-\d+")  # VARIANT.sFIRST-LAST, of seeds
MOST_RUNS = 200_000
UNREADABLE_TABLE = (OSError, ValueError, LookupError, TypeError, NotImplementedError)
"""What reading a damaged table may raise. Too little memory is none of these: the file is whole."""

NAMED = 3  # variants that are missing on a task; more are counted


class StudyKept(TypedDict):
    """What a dataset keeps of a study."""

    name: str
    variants: list[str]
    environments: list[str]
    overrides: list[str]  # of its command
    tables: NotRequired[Sequence[str]]
    figures: NotRequired[Sequence[str]]


class Note(TypedDict):
    """dataset.json."""

    schema: int
    sources: list[str]
    columns: NotRequired[Mapping[str, str]]  # of `runs`, and what they mean
    numbered: NotRequired[list[str]]  # runs whose seed is the place of their folder among others
    study: NotRequired[StudyKept]  # after which the dataset is reported
    studies: NotRequired[list[StudyKept]]
    gaps: NotRequired[list[str]]  # runs that were read without some values
    left_out: dict[str, list[str]]  # names of runs, by kind of trouble
    equal_codes: NotRequired[list[dict[str, Any]]]  # proofs by which runs of several codes count together


@dataclass(frozen=True)
class Dataset:
    """`runs` and the note; the long tables stay in their files until somebody reads them."""

    folder: Path
    runs: pd.DataFrame
    note: Note

    def batches(self, table: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """A long table piece by piece, `run` as a dictionary: ten thousand runs do not fit in memory at once."""
        for part in parts_of(self.folder):
            path = part / f"{table}.parquet"
            try:
                file = pq.ParquetFile(path, read_dictionary=["run"])
                yield from file.iter_batches(columns=["run", *columns])
            except UNREADABLE_TABLE as error:
                raise unreadable(path, error) from error

    def read(self, table: str) -> pd.DataFrame:
        """The whole of a long table."""
        paths = [part / f"{table}.parquet" for part in parts_of(self.folder)]
        return pd.concat([read_table(path) for path in paths], ignore_index=True)

    def schema(self, table: str) -> pa.Schema:
        """Columns of a long table; `run` is a dictionary there too."""
        path = parts_of(self.folder)[0] / f"{table}.parquet"
        try:
            return pq.ParquetFile(path, read_dictionary=["run"]).schema_arrow
        except UNREADABLE_TABLE as error:
            raise unreadable(path, error) from error


def read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except UNREADABLE_TABLE as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> RecordError:
    return RecordError(f"{path} cannot be read ({' '.join(str(error).split())}); collect it again")


def parts_of(folder: Path) -> list[Path]:
    """The folder itself, or those of its parts, FOLDER/TASK/PART; see `analysis.parts`. Datasets that lie in a folder
    of records, such as those that reports keep there, are no parts."""
    if (folder / "dataset.json").exists() or any((folder / name).is_dir() for name in ("runs", "studies")):
        return [folder]
    found = sorted(path.parent for path in folder.glob("*/*/dataset.json"))
    return [part for part in found if PART_NAME.fullmatch(part.name)] or [folder]


def load(folder: Path) -> Dataset:
    """A dataset from its folder, or from the folder of its parts. Their note has all `studies` that they are of; the
    one that the folder is named after is its `study`, and names the cells that are not there. RecordError says what is
    missing of a dataset."""
    if (parts := parts_of(folder)) == [folder]:
        return load_part(folder)
    loaded = [load_part(part) for part in parts]
    if strange := [part.folder for part in loaded if not is_study(part.note.get("study"))]:
        raise RecordError(f"{strange[0]} is no part: its dataset.json names no study; move it out of {folder}")
    runs = pd.concat([part.runs for part in loaded], ignore_index=True)
    studies: dict[str, StudyKept] = {}
    for study in sorted((part.note["study"] for part in loaded), key=lambda study: len(study["overrides"])):
        studies.setdefault(study["name"], study)  # of one launched in several ways, the plainest
    study = studies.get(folder.resolve().name, loaded[-1].note["study"])
    absent = absent_cells(runs, study)
    proofs = [proof for part in loaded for proof in part.note.get("equal_codes", ())]
    note: Note = {
        **loaded[-1].note,
        "sources": sorted({source for part in loaded for source in part.note["sources"]}),
        "study": study,
        "studies": list(studies.values()),
        "left_out": {"missing": absent} if absent else {},
    }
    if proofs:
        note["equal_codes"] = proofs
    return Dataset(folder, runs, note)


def absent_cells(runs: pd.DataFrame, study: StudyKept) -> list[str]:
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
        note = read_json(folder / "dataset.json")
    except UNREADABLE as error:
        raise unreadable(folder / "dataset.json", error) from error
    if not isinstance(note, dict) or not isinstance(note.get("schema"), int):
        raise RecordError(f"{folder}/dataset.json is no note of a dataset; collect it again")
    if note["schema"] != SCHEMA:
        raise RecordError(f"{folder} has schema {note['schema']}, and this code reads {SCHEMA}; collect it again")
    if not (isinstance(note.get("sources"), list) and isinstance(note.get("left_out"), dict)):
        raise RecordError(f"{folder}/dataset.json lacks sources or left_out; collect it again")
    for table, columns in COLUMNS.items():
        path = folder / f"{table}.parquet"
        try:
            head = pq.read_metadata(path)
        except UNREADABLE_TABLE as error:
            raise unreadable(path, error) from error
        if absent := [column for column in columns if column not in head.schema.to_arrow_schema().names]:
            raise RecordError(f"{path} has no column {absent[0]}; collect it again")
        groups = [head.row_group(number) for number in range(head.num_row_groups)]
        if table == "runs" and head.num_rows > MOST_RUNS:
            raise RecordError(f"{path} has {head.num_rows:,} rows, and more than {MOST_RUNS:,} are not read")
        if any(max(group.total_byte_size, 8 * group.num_rows * group.num_columns) > LARGEST for group in groups):
            raise RecordError(f"{path} has a piece of more than {LARGEST >> 20:,} MiB, and larger ones are not read")
    runs = read_table(folder / "runs.parquet")
    if "not_finite" not in runs:  # datasets of older code
        runs.insert(list(runs).index("status") + 1, "not_finite", "")
    return Dataset(folder, runs.assign(not_finite=runs["not_finite"].fillna("")), cast(Note, note))


def is_study(study: Any) -> bool:
    """Whether a note says of a study what the reports need."""
    kinds = {"name": str, "variants": list, "environments": list, "overrides": list}
    return isinstance(study, dict) and all(isinstance(study.get(name), kind) for name, kind in kinds.items())
