"""A study becomes a baseline: python -m analysis.bless STUDY --name NAME --reason "why" [--replace]

A baseline is what later changes are judged by, so it is never made by accident: it needs a reason, an old one is
replaced only when that is said, and what differs from it is shown either way. Commit the folder; the review of that
commit is the review of the baseline.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis import equal_codes, scores
from analysis.baseline import FOLDER, INSTALLED, Baseline, differences, read_baseline, refuse_faulty, versions_of
from analysis.collect import collect
from analysis.dataset import Dataset, load
from analysis.records import RecordError
from analysis.scores import UNTRAINED
from analysis.tables import returns
from experiments.commands import command

FEWEST = 20  # seeds of every variant on every task
SEEDS_PER_LOOK = 24  # of a candidate


def about(dataset: Dataset, reason: str, versions: dict[str, str]) -> dict[str, Any]:
    """What baseline.json says."""
    runs = dataset.runs
    trained = runs[~runs["variant"].isin(UNTRAINED)]
    return {
        "reason": reason,
        "study": dataset.note["study"]["name"],
        "overrides": [said for said in dataset.note["study"]["overrides"] if not said.startswith("records=")],
        "seeds": [int(trained["seed"].min()), int(trained["seed"].max())],
        "seeds_per_look": SEEDS_PER_LOOK,
        "commits": sorted(runs["commit"].unique()),
        "code_ids": sorted(runs["code_id"].unique()),
        "versions": versions,
        "machines": sorted(runs["cpu"].unique()),
    }


def check(dataset: Dataset) -> None:
    """Refuse what could not judge anything."""
    runs = dataset.runs
    if dataset.note["left_out"]:
        raise RecordError("a baseline has all runs of its study; complete it first")
    refuse_faulty(runs)
    if (odd := runs["commit"].str.endswith("+")).any():
        raise RecordError(f"{int(odd.sum())} runs were trained with uncommitted changes; commit, and train again")
    if runs["code_id"].replace(equal_codes.one_name()).nunique() > 1:
        raise RecordError("the runs have several code ids; a baseline has one")
    if "random" not in set(runs["variant"]):
        raise RecordError("the study has no variant `random`, which the margin is a share of the way from")
    few = runs[~runs["variant"].isin(UNTRAINED)].groupby(["variant", "env"])["seed"].nunique()
    if (few < FEWEST).any():
        raise RecordError(
            f"{few.idxmin()[0]} on {few.idxmin()[1]} has {few.min()} seeds; a baseline has {FEWEST} or more"
        )


ENCODINGS = {"env_step": "DELTA_BINARY_PACKED", "length": "DELTA_BINARY_PACKED", "return": "BYTE_STREAM_SPLIT"}
"""Of episodes: half the size of what Parquet does unasked."""


def compact(folder: Path) -> None:
    """Diagnostics as float32: a third of the size, and more than any test of them needs. Episodes stay exact."""
    episodes = pq.read_table(folder / "episodes.parquet")
    pq.write_table(
        episodes, folder / "episodes.parquet", compression="zstd", use_dictionary=["run"], column_encoding=ENCODINGS
    )
    path = folder / "iterations.parquet"
    table = pq.read_table(path)
    schema = pa.schema([
        field.with_type(pa.float32()) if pa.types.is_float64(field.type) else field for field in table.schema
    ])  # fmt: skip
    pq.write_table(table.cast(schema), path, compression="zstd")


def compared(new: pd.DataFrame, old: Baseline | None, versions: dict[str, str]) -> list[str]:
    """What a reviewer wants to see: scores beside the old baseline's, and settings that are others."""
    ours = scores.raw_scores(new)
    theirs = scores.raw_scores(old.runs) if old else {}
    lines = []
    for variant, tasks in ours.items():
        for task, runs in tasks.items():
            before = theirs.get(variant, {}).get(task)
            was = f", before {returns(before.mean())} ± {returns(float(np.std(before)))}" if before is not None else ""
            lines.append(
                f"{variant} on {task}: {returns(runs.mean())} ± {returns(float(np.std(runs)))} ({runs.size} runs){was}"
            )
    return lines + (differences(new, versions, old) if old else [])


def bless(study: str, name: str, reason: str, records: Path, replace: bool, baselines: Path = FOLDER) -> list[str]:
    """Write the baseline, whole or not at all; returns what a reviewer wants to see."""
    if not reason.strip():
        raise RecordError("--reason is empty; say why this is the baseline from now on")
    target, building = baselines / name, baselines / f".{name}.building"
    if target.exists() and not (target / "baseline.json").exists():
        raise RecordError(f"{target} is there and is no baseline; it stays, so take another name")
    old = read_baseline(name, baselines) if target.exists() else None
    try:
        collect([study], records, building, ())
        dataset = load(building)
        check(dataset)
        versions = versions_of(study, records)
        said = compared(dataset.runs, old, versions)
        if old and not replace:
            raise RecordError(f"{name} is there already; --replace puts this in its place: {'; '.join(said)}")
        compact(building)
        (building / "baseline.json").write_text(json.dumps(about(dataset, reason, versions), indent=1) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        building.replace(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return said


@command(RecordError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.bless", description="A study becomes a baseline.")
    parser.add_argument("study", help="a complete study in the records")
    parser.add_argument("--name", required=True, help="of the baseline, a folder in analysis/baselines")
    parser.add_argument("--reason", required=True, help="why this is the baseline from now on; one sentence")
    parser.add_argument("--replace", action="store_true", help="put it in the place of one of that name")
    parser.add_argument("--records", type=Path, default=Path("records"), help="where the study is")
    parser.add_argument("--baselines", type=Path, default=FOLDER, required=INSTALLED, help="where baselines are stored")
    options = parser.parse_args(arguments)
    said = bless(options.study, options.name, options.reason, options.records, options.replace, options.baselines)
    print("\n".join([*said, str(options.baselines / options.name)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
