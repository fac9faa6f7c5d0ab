"""Runs from a dataset that was made before, or from a folder of its parts."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from analysis.dataset import Dataset, Note, load, parts_of
from analysis.records import RecordError
from analysis.sources.records import Collected, type_of


def is_dataset(folder: Path) -> bool:
    return (parts_of(folder)[0] / "dataset.json").exists()


def noted(folder: Path, note: Note) -> Dataset:
    """The dataset; what its note says of studies, of what was left out and of seeds goes into `note`."""
    dataset = load(folder)
    studies = dataset.note.get("studies") or [study for study in [dataset.note.get("study")] if study]
    if studies:
        note.setdefault("study", dataset.note.get("study") or studies[0])
        note.setdefault("studies", []).extend(study for study in studies if study not in note.get("studies", []))
    for kind, names in dataset.note["left_out"].items():
        note["left_out"].setdefault(kind, []).extend(names)
    note.setdefault("numbered", []).extend(dataset.note.get("numbered", []))
    return dataset


def runs_of(dataset: Dataset) -> Iterator[Collected]:
    """Its runs one after another, each with its rows."""
    for part in parts_of(dataset.folder):
        one = load(part)
        tables = {name: pieces(one, name) for name in ("episodes", "iterations")}
        waiting = {name: next(rows, None) for name, rows in tables.items()}
        for row in pa.Table.from_pandas(one.runs, preserve_index=False).to_pylist():
            found = {}
            for name, rows in tables.items():
                piece = waiting[name]
                if piece is not None and piece[0] == row["run"]:
                    found[name], waiting[name] = piece[1], next(rows, None)
                else:
                    found[name] = one.schema(name).empty_table()
            yield Collected(row, retyped(found["episodes"]), retyped(found["iterations"]))
        for name, piece in waiting.items():
            if piece is not None:
                raise RecordError(f"{part}/{name}.parquet has rows of {piece[0]} that are not in the order of its runs")


def pieces(dataset: Dataset, name: str) -> Iterator[tuple[str, pa.Table]]:
    """A long table's rows, run by run."""
    held: list[pa.Table] = []
    current = ""
    columns = [column for column in dataset.schema(name).names if column != "run"]
    for batch in dataset.batches(name, columns):
        runs = batch.column("run").cast(pa.string())
        for start, stop in stretches(runs):
            run = runs[start].as_py()
            if held and run != current:
                yield current, pa.concat_tables(held).drop_columns("run")
                held = []
            current = run
            held.append(pa.table(batch.slice(start, stop - start)))
    if held:
        yield current, pa.concat_tables(held).drop_columns("run")


def stretches(runs: pa.Array) -> Iterator[tuple[int, int]]:
    """Where equal values stand together."""
    ends = [0, *(pc.indices_nonzero(pc.not_equal(runs[1:], runs[:-1])).to_numpy() + 1), len(runs)]
    return ((int(start), int(stop)) for start, stop in pairwise(ends) if stop > start)


def retyped(table: pa.Table) -> pa.Table:
    """With the types that a dataset promises: parts keep less of some columns."""
    kinds = {name: type_of(name) for name in table.column_names if name != "run"}
    return table.select(list(kinds)).cast(pa.schema(list(kinds.items())))
