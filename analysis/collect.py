"""Runs become a dataset: python -m analysis.collect SOURCE... --out DATASET

A source is a study's name, a records root, or any folder inside one. What is broken, partial, missing, there twice or
mixed under one name is refused with its name, or left out when `--leave-out` says so, and then the dataset says it too.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.dataset import RUN_COLUMNS, SCHEMA
from analysis.from_records import Broken, Collected, folders_of, read_run
from analysis.records import RecordError

TROUBLES = ("broken", "partial", "missing", "twice")
SHOWN = 5  # names per kind of trouble
BATCH = 100  # runs written together
ONE_OF_A_KIND = {
    "env": "versions of the task",
    "profile": "profiles",
    "code_id": "code ids",
    "budget": "budgets",
    "numerics": "kinds of numerics",
    "backend": "backends",
}
"""What runs of one variant on one task must share."""


class Trouble:
    """What was found wrong, by kind; said at the end, all of it."""

    def __init__(self, leave_out: Sequence[str]):
        self.leave_out = leave_out
        self.found: dict[str, list[str]] = {kind: [] for kind in TROUBLES}

    def add(self, kind: str, name: str) -> None:
        self.found[kind].append(name)

    def left_out(self) -> dict[str, list[str]]:
        return {kind: names for kind, names in self.found.items() if names}

    def refuse(self) -> None:
        """Raise RecordError for every kind that was not to be left out."""
        parts = []
        for kind, names in self.left_out().items():
            if kind not in self.leave_out:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                parts.append(f"{len(names)} {kind}: {'; '.join(names[:SHOWN])}{more}")
        if parts:
            kinds = " ".join(kind for kind in self.left_out() if kind not in self.leave_out)
            raise RecordError(f"{' | '.join(parts)}. To go on without them: --leave-out {kinds}")


def gather(sources: Sequence[str], records: Path, trouble: Trouble) -> Iterator[Collected]:
    """Every run of the sources, once."""
    seen: dict[str, str] = {}
    for source in sources:
        folders, variants, missing = folders_of(source, records)
        for name in missing:
            trouble.add("missing", name)
        for folder in folders:
            try:
                run = read_run(folder, variants)
            except Broken as broken:
                trouble.add("broken", str(broken))
                continue
            if (first := seen.setdefault(run.row["run"], str(folder))) != str(folder):
                trouble.add("twice", f"{folder} is {first} again")
            elif run.row["status"] == "partial":
                trouble.add("partial", f"{folder.name} at env step {run.row['env_steps']}")
            else:
                yield run


def refuse_mixed(runs: pd.DataFrame) -> None:
    """One variant on one task must be one thing: not two versions of the task, two profiles or two codes."""
    task = runs["env"].str.replace(r"-v\d+$", "", regex=True)
    for (variant, name), group in runs.groupby([runs["variant"], task]):
        for column, what in ONE_OF_A_KIND.items():
            if len(values := sorted(group[column].astype(str).unique())) > 1:
                raise RecordError(
                    f"{variant} on {name} has runs of several {what}: {', '.join(values)}; give a study's name, or a "
                    "folder that holds one of them, such as records/runs/<code id>"
                )
        if (twice := group["seed"].duplicated()).any():
            raise RecordError(f"{variant} on {name} has seed {group['seed'][twice].iloc[0]} more than once")


def write(runs: Iterator[Collected], out: Path) -> pd.DataFrame:
    """The three tables, in batches, so that memory does not grow with the number of runs; returns `runs`."""
    rows: list[dict[str, Any]] = []
    batch: list[Collected] = []
    writers: dict[str, pq.ParquetWriter] = {}

    def flush() -> None:
        for name in ("episodes", "iterations"):
            tables = [keyed(getattr(run, name), run.row["run"]) for run in batch]
            if tables:
                joined = pa.concat_tables(tables, promote_options="default")
                if name not in writers:
                    writers[name] = pq.ParquetWriter(out / f"{name}.parquet", joined.schema, compression="zstd")
                writers[name].write_table(joined.select(writers[name].schema.names).cast(writers[name].schema))
        batch.clear()

    for run in runs:
        rows.append(run.row)
        batch.append(run)
        if len(batch) == BATCH:
            flush()
    flush()
    for writer in writers.values():
        writer.close()
    frame = pd.DataFrame(rows, columns=list(RUN_COLUMNS))
    frame.to_parquet(out / "runs.parquet", index=False, compression="zstd")
    return frame


def keyed(table: pa.Table, run: str) -> pa.Table:
    """The table with its run in front."""
    key = pa.DictionaryArray.from_arrays(pa.array([0] * len(table), pa.int32()), pa.array([run]))
    return table.add_column(0, "run", key)


def collect(sources: Sequence[str], records: Path, out: Path, leave_out: Sequence[str]) -> pd.DataFrame:
    """Write a dataset from the sources, whole or not at all; returns its `runs`."""
    trouble = Trouble(leave_out)
    building = out.with_name(f".{out.name}.building")
    building.mkdir(parents=True, exist_ok=True)
    try:
        runs = write(gather(sources, records, trouble), building)
        trouble.refuse()
        if runs.empty:
            raise RecordError(f"no finished run in {', '.join(sources)}")
        refuse_mixed(runs)
        note = {"schema": SCHEMA, "sources": list(sources), "columns": RUN_COLUMNS, "left_out": trouble.left_out()}
        (building / "dataset.json").write_text(json.dumps(note, indent=1) + "\n")
        out.mkdir(exist_ok=True)
        for path in building.iterdir():
            path.replace(out / path.name)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.collect", description="Runs become a dataset.")
    parser.add_argument("sources", nargs="+", help="a study's name, a records root, or a folder inside one")
    parser.add_argument("--out", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--records", type=Path, default=Path("records"), help="where studies are looked up")
    parser.add_argument(
        "--leave-out", nargs="+", choices=TROUBLES, default=[], help="kinds of trouble to go on without"
    )
    options = parser.parse_args()
    try:
        runs = collect(options.sources, options.records, options.out, options.leave_out)
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    left = json.loads((options.out / "dataset.json").read_text())["left_out"]
    print(f"{len(runs)} runs, {runs['episodes'].sum():,} episodes in {options.out}")
    for kind, names in left.items():
        print(f"left out, {kind}: {len(names)}")


if __name__ == "__main__":
    main()
