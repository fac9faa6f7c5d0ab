"""A study's finished cells become parts of a dataset that only grows: python -m analysis.parts STUDY --out FOLDER

A part is one variant on one task with all seeds that its study has, and a dataset by itself, such as
FOLDER/Hopper-v4/clip_0.2.s0-2/. No part is ever rewritten, so that a repository grows by what is new; seeds added later
are a part of their own. Episodes are exact; of the iterations, what the regression gates read remains, as float32.
All parts together are a dataset too: give FOLDER wherever one is read.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow.parquet as pq

from analysis import equal_codes
from analysis.bless import compact
from analysis.collect import refuse_mixed, write
from analysis.dataset import RUN_COLUMNS, SCHEMA, Note, StudyKept, load, parts_of
from analysis.gates import QUANTITIES
from analysis.records import RecordError
from analysis.sources.records import Broken, Collected, place_of_study, read_run
from experiments.commands import command

KEPT = ("run", "iteration", "env_steps", *QUANTITIES)  # of the iterations

Cell = tuple[str, str]
"""Task and variant."""


def cells_of(study: Path) -> dict[Cell, list[str]]:
    """Run ids by cell, as the study's manifest has them."""
    cells: dict[Cell, list[str]] = {}
    for line in map(json.loads, (study / "manifest.jsonl").read_text().splitlines()):
        cells.setdefault((line["config"]["env"]["id"], line["variant"]), []).append(line["run_id"])
    return cells


def finished(folders: Iterable[Path], variants: dict[str, str]) -> list[Collected]:
    """The runs of these folders; RecordError if one is not what its digests say. Their place is told from their records
    on: where those lie on this machine is nobody's business who reads the repository."""
    try:
        runs = [read_run(folder, variants) for folder in folders]
    except Broken as broken:
        raise RecordError(str(broken)) from broken
    for run in runs:
        run.row["source"] = Path(*Path(run.row["source"]).parts[-3:]).as_posix()
    return runs


def write_part(runs: Sequence[Collected], note: Note, out: Path) -> Path:
    """A part of these runs of one cell, whole or not at all; returns its folder."""
    row, seeds = runs[0].row, sorted(run.row["seed"] for run in runs)
    if row["env"] in (".", "..") or re.search(r"[/\\\0]", row["env"]):
        raise RecordError(
            f"{row['env']!r} cannot be the name of a folder, and a part stands in its task's: {row['source']}"
        )
    part = out / row["env"] / f"{row['variant'].replace('/', '-')}.s{seeds[0]}-{seeds[-1]}"
    if part.exists():
        raise RecordError(f"{part} is there already and is never rewritten; its seeds are others than those asked for")
    part.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=part.parent, prefix=".") as beside:
        new = Path(beside, part.name)
        new.mkdir()
        write(iter(runs), new)
        kept = [name for name in pq.read_schema(new / "iterations.parquet").names if name in KEPT]
        table = pq.read_table(new / "iterations.parquet", columns=kept)
        pq.write_table(table, new / "iterations.parquet", compression="zstd")
        compact(new)
        (new / "dataset.json").write_text(json.dumps(note, indent=1) + "\n")
        new.replace(part)
    return part


def refuse_other_code(stored: pd.DataFrame, folders: Mapping[str, Path], out: Path) -> None:
    """Runs that were trained again by another code than the stored ones': their ids are the same, so they would pass
    for stored already. `folders` by run id."""
    here = stored["run_id"].map({run_id: folder.parent.name for run_id, folder in folders.items()})
    name = equal_codes.one_name()
    again = stored[here.notna() & (here.replace(name) != stored["code_id"].replace(name))]
    if not again.empty:
        raise RecordError(
            f"{len(again)} runs that code id {here[again.index[0]]} has trained are in {out} as runs of code id "
            f"{again['code_id'].iloc[0]}, and no part is rewritten; give another --out"
        )


def grow(study: Path, out: Path) -> tuple[list[Path], int]:
    """Write the parts that are finished and not there; returns them and how many cells are still to be trained."""
    place = place_of_study(study)
    folders = {path.name.rpartition("-")[2]: path for path in place.folders if (path / "done.json").exists()}
    if (out / "runs").is_dir() or (out / "studies").is_dir():
        raise RecordError(f"--out {out} is a folder of records, where parts would not be found; give another folder")
    stored = load(out).runs if parts_of(out) != [out] else pd.DataFrame(columns=["run_id", "code_id"])
    refuse_other_code(stored, folders, out)
    assert place.study is not None
    asked = [words for words in place.study["overrides"] if not words.startswith("records=")]  # a place, not a setting
    about: StudyKept = {**place.study, "overrides": asked}
    note: Note = {"schema": SCHEMA, "sources": [study.name], "columns": RUN_COLUMNS, "study": about, "left_out": {}}
    written, waiting = [], 0
    for ids in cells_of(study).values():
        fresh = [run_id for run_id in ids if run_id not in set(stored["run_id"])]
        if not all(run_id in folders for run_id in fresh):
            waiting += 1
        elif fresh:
            runs = finished((folders[run_id] for run_id in fresh), dict(place.variants))
            together = pd.concat([stored, pd.DataFrame([run.row for run in runs])])
            refuse_mixed(together)
            proofs = equal_codes.noted(together["code_id"])
            written.append(write_part(runs, {**note, "equal_codes": proofs} if proofs else note, out))
    return written, waiting


@command(RecordError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.parts", description="A dataset that only grows.")
    parser.add_argument("study", help="a study of the records, complete or not")
    parser.add_argument("--out", type=Path, required=True, help="folder of the parts")
    parser.add_argument("--records", type=Path, default=Path("records"), help="where the study is")
    options = parser.parse_args(arguments)
    known = sorted(path.parent.name for path in options.records.glob("studies/*/manifest.jsonl"))
    if options.study not in known:
        raise RecordError(f"{options.study} is no study of {options.records} ({', '.join(known) or 'it has none'})")
    try:
        written, waiting = grow(options.records / "studies" / options.study, options.out)
    except MemoryError as error:
        raise RecordError(f"not enough memory ({' '.join(str(error).split())})") from error
    print("\n".join([*map(str, written), f"{len(written)} parts written, {waiting} cells are not finished"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
