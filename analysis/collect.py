"""Runs become a dataset: python -m analysis.collect SOURCE... --out DATASET

A source is a study's name, a records root or any folder inside one; a dataset, or a folder of its parts, such as
analysis/baselines/table1; `wandb-files:FOLDER`, offline files of Weights & Biases; `wandb:ENTITY/PROJECT`, a project
on its server; or what other tools leave: `sb3:`, `evaluations:`, `tensorboard:FOLDER`, `csv:FILE`
(analysis.sources.tools says what they read). Each source must give a run. What is broken, partial, missing, there
twice, without its episodes or mixed under one name is refused with its name; all but the last is left out when
`--leave-out` says so, and then the dataset says it too.

A CSV file has one row per finished episode, in the order of env steps, and the names of its columns in the first line:
env_step (of the run, at the episode's end) and return; where known length, variant, env and seed. Other columns are
ignored. What is the same in all rows may be said behind the name: csv:mine.csv,variant=mine,env=Hopper-v4

    variant,env,seed,env_step,return,length
    mine,Hopper-v4,0,21,18.5,21
    mine,Hopper-v4,0,45,25.0,24
    mine,Hopper-v4,1,19,16.2,19

Beside our numbers: python -m analysis.collect csv:mine.csv analysis/baselines/table1 --out beside
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis import equal_codes
from analysis.dataset import FILES, RUN_COLUMNS, RUNS, SCHEMA, Note
from analysis.records import RecordError
from analysis.sources import datasets, tools
from analysis.sources.records import Broken, Collected, place_of, read_run
from analysis.tables import many
from experiments.commands import command

TROUBLES = ("broken", "partial", "missing", "twice", "episodes")
ALIKE = 0.75  # of the longest run of a tool that says nothing of budgets; shorter ones are another experiment
SHOWN = 5  # names per kind of trouble
BATCH = 100  # runs written together
ONE_OF_A_KIND = {
    "env": "versions of the task",
    "profile": "profiles",
    "code_id": "code ids",
    "budget": "budgets",
    "numerics": "kinds of numerics",
    "backend": "backends",
    "measure": "kinds of episodes",
    "settings": "settings",
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
        if refused := {kind: names for kind, names in self.left_out().items() if kind not in self.leave_out}:
            told = " | ".join(listed(kind, names) for kind, names in refused.items())
            raise RecordError(f"{told}. To go on without them: --leave-out {' '.join([*self.leave_out, *refused])}")


def listed(kind: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {kind}: {'; '.join(names[:SHOWN])}{more}"


def gather(sources: Sequence[str], records: Path, trouble: Trouble, note: Note) -> Iterator[Collected]:
    """Every run of the sources, once; what else they tell goes into `note`."""
    seen: dict[tuple[str, str], str] = {}
    name = equal_codes.one_name()
    for source in sources:
        before = sum(map(len, trouble.found.values()))
        given = 0
        for run in runs_of(source, records, trouble, note):
            given += 1
            if isinstance(run, Broken):
                trouble.add(run.kind, str(run))
                continue
            code, place = run.row["code_id"], run.row["source"]
            key = (run.row["run_id"], name.get(code, code))
            if run.row["status"] == "partial":
                trouble.add("partial", f"{place} at env step {run.row['env_steps']}")
            elif key in seen:
                trouble.add("twice", f"{place} is {seen[key]} again")
            else:
                seen[key] = place
                said = json.loads(run.row["config"])
                if gaps := said.get("gaps"):
                    note.setdefault("gaps", []).append(f"{place}: {gaps}")
                if said.get("seed") == "numbered":
                    note["numbered"].append(f"{run.row['variant']} on {run.row['env']} seed {run.row['seed']}: {place}")
                yield run
        if not given and sum(map(len, trouble.found.values())) == before:
            raise RecordError(
                f"no finished run in {source}: it is neither a study, a folder of records nor a dataset; logs of other "
                "tools are named with their kind, such as sb3:FOLDER"
            )


def runs_of(source: str, records: Path, trouble: Trouble, note: Note) -> Iterator[Collected | Broken]:
    """The runs that one source names, read one after another."""
    kind, _, where = source.partition(":")
    if (others := tools.runs_of(source)) is not None:
        yield from others
        return
    if kind in ("wandb", "wandb-files"):
        yield from from_wandb(kind, where, records, trouble)
        return
    if not (records / "studies" / source / "manifest.jsonl").exists() and datasets.is_dataset(Path(source)):
        yield from datasets.runs_of(datasets.noted(Path(source), note))
        return
    place = place_of(source, records)
    for name in place.missing:
        trouble.add("missing", name)
    if place.study:
        note.setdefault("study", place.study)
        note.setdefault("studies", []).append(place.study)
    for folder in place.folders:
        try:
            yield read_run(folder, place.variants)
        except Broken as broken:
            yield broken


def from_wandb(kind: str, where: str, records: Path, trouble: Trouble) -> Iterator[Collected | Broken]:
    """The runs of a server's project, or of offline files; those without their episodes are named."""
    from analysis.sources import wandb  # it imports wandb, which takes a second that only these sources need

    if kind == "wandb":
        found = wandb.from_server(where, records / "wandb" / "fetched")
    else:
        found = wandb.from_files(Path(where))
    for run in found:
        if isinstance(run, Collected) and run.row["status"] != "partial" and wandb.lacks_episodes(run):
            trouble.add("episodes", f"{run.row['source']} has no episodes.csv")
        yield run


def refuse_mixed(runs: pd.DataFrame) -> None:
    """One variant on one task must be one thing: not two versions of the task, two profiles or two codes."""
    said = runs["config"].map(settings)
    cells = runs.assign(
        code_id=runs["code_id"].replace(equal_codes.one_name()),
        task=runs["env"].str.replace(r"-v\d+$", "", regex=True),
        settings=said,
        budget=runs["budget"].where(said != "", 0),  # other tools tell where a run ended, not where it should have
    ).groupby(["variant", "task"])
    kinds = cells[list(ONE_OF_A_KIND)].nunique()
    for column, what in ONE_OF_A_KIND.items():
        for variant, task in kinds.index[kinds[column] > 1]:
            found = [set(str(kind).splitlines()) for kind in cells.get_group((variant, task))[column].unique()]
            differing = sorted(set().union(*found) - found[0].intersection(*found))
            raise RecordError(
                f"{variant} on {task} has runs of several {what}: {', '.join(differing)}; give a study's name, or a "
                "folder that holds one of them, such as records/runs/<code id>"
            )
    foreign = cells.obj[said == ""].groupby(["variant", "task"])["env_steps"].agg(["min", "max"])
    for (variant, task), ends in foreign[foreign["min"] < ALIKE * foreign["max"]].iterrows():
        raise RecordError(
            f"{variant} on {task} has runs that end at {ends['min']:,} and at {ends['max']:,} env steps; give each "
            "length a name of its own, such as with ,variant=NAME"
        )
    for twice in runs[runs.duplicated(["variant", "env", "seed"])].itertuples():
        raise RecordError(
            f"{twice.variant} on {twice.env} has seed {twice.seed} more than once, such as in {twice.source}"
        )


def settings(config: str) -> str:
    """A run's algorithm and profile, a line for each setting; other tools have none."""
    parts = json.loads(config)
    return "\n".join(
        f"{part}.{name}={value}"
        for part in ("algo", "profile")
        for name, value in parts.get(part, {}).items()
        if value is not None  # as good as absent: a setting that was added later
    )


class Growing:
    """A long table on its way into its file, batch by batch. Its columns grow too: what a run does not have is NaN."""

    def __init__(self, path: Path):
        self.path = path
        self.writer: Any = None  # opened by the first batch

    def append(self, table: pa.Table) -> None:
        if self.writer is None:
            self.writer = self.open(table.schema)
        elif not set(table.column_names) <= set(self.writer.schema.names):
            self.widen(pa.unify_schemas([self.writer.schema, table.schema]))
        self.put(table)

    def widen(self, schema: pa.Schema) -> None:
        """Rewrite what is there with more columns."""
        self.close()
        narrow = self.path.replace(self.path.with_suffix(".narrow"))
        self.writer = self.open(schema)
        for batch in pq.ParquetFile(narrow, read_dictionary=["run"]).iter_batches():
            self.put(pa.table(batch))
        narrow.unlink()

    def open(self, schema: pa.Schema) -> pq.ParquetWriter:
        return pq.ParquetWriter(self.path, schema, compression="zstd")

    def put(self, table: pa.Table) -> None:
        schema = self.writer.schema
        filled = pa.concat_tables([schema.empty_table(), table], promote_options="default")
        self.writer.write_table(filled.cast(schema))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def give_up(self) -> None:
        """Close after a failure, which a second one must not hide."""
        with suppress(Exception):
            self.close()
        self.writer = None


def write(runs: Iterator[Collected], out: Path) -> pd.DataFrame:
    """The three tables, in batches, so that memory does not grow with the number of runs; returns `runs`."""
    rows: list[dict[str, Any]] = []
    tables = {name: Growing(out / f"{name}.parquet") for name in ("episodes", "iterations")}
    try:
        while batch := list(islice(runs, BATCH)):
            rows += [run.row for run in batch]
            for name, table in tables.items():
                table.append(joined(batch, name))
        for table in tables.values():
            table.close()
    except BaseException:
        for table in tables.values():
            table.give_up()
        raise
    frame = pa.Table.from_pylist(rows, RUNS)
    pq.write_table(frame, out / "runs.parquet", compression="zstd")
    return frame.to_pandas()


def joined(batch: Sequence[Collected], name: str) -> pa.Table:
    """One long table of several runs, `run` in front."""
    tables = [getattr(run, name) for run in batch]
    position = np.repeat(np.arange(len(batch), dtype=np.int32), [len(table) for table in tables])
    run = pa.DictionaryArray.from_arrays(position, [run.row["run"] for run in batch])
    return pa.concat_tables(tables, promote_options="default").add_column(0, "run", run)


def collect(sources: Sequence[str], records: Path, out: Path, leave_out: Sequence[str]) -> pd.DataFrame:
    """Write a dataset from the sources, whole or not at all; returns its `runs`."""
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} in (set(), set(FILES))):
        raise RecordError(f"--out {out} is there and is no dataset, or not only one; give a folder of its own")
    trouble = Trouble(leave_out)
    note: Note = {"schema": SCHEMA, "sources": [*sources], "columns": RUN_COLUMNS, "numbered": [], "left_out": {}}
    with made(out.parent), TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
        new, old = Path(beside, "new"), Path(beside, "old")
        new.mkdir()
        runs = write(gather(sources, records, trouble, note), new)
        trouble.refuse()
        if runs.empty:
            raise RecordError(f"no finished run in {', '.join(sources)}")
        refuse_mixed(runs)
        for kind, names in trouble.left_out().items():  # after those of datasets among the sources
            note["left_out"].setdefault(kind, []).extend(names)
        if proofs := equal_codes.noted(runs["code_id"]):
            note["equal_codes"] = proofs
        (new / "dataset.json").write_text(json.dumps(note, indent=1) + "\n")
        if out.exists():
            out.replace(old)
        try:
            new.replace(out)
        except OSError:
            if old.exists():
                old.replace(out)
            raise
    return runs


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """The folder, and those above it; what was made for it is removed again after a failure."""
    absent = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for place in absent:
            with suppress(OSError):
                place.rmdir()
        raise


@command(RecordError, OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.collect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", help="a study's name, a folder of records, or KIND:PLACE; see above")
    parser.add_argument("--out", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--records", type=Path, default=Path("records"), help="where studies are looked up")
    parser.add_argument(
        "--leave-out", nargs="+", action="extend", choices=TROUBLES, default=[], help="kinds of trouble to do without"
    )
    options = parser.parse_args(arguments)
    try:
        runs = collect(options.sources, options.records, options.out.resolve(), options.leave_out)
    except MemoryError as error:  # pyarrow's own is one of these
        raise RecordError(f"not enough memory to collect this ({' '.join(str(error).split())})") from error
    note = json.loads((options.out / "dataset.json").read_text())
    print(f"{many(len(runs), 'run')}, {many(int(runs['episodes'].sum()), 'episode')} in {options.out}")
    for kind, names in note["left_out"].items():
        print(f"left out, {listed(kind, names)}")
    for line in equal_codes.describe_all(runs["code_id"].value_counts().to_dict(), equal_codes.read()):
        print(line)
    if "gaps" in note:
        print(f"read without some values, {listed('run' + 's' * (len(note['gaps']) > 1), note['gaps'])}")
    if note["numbered"]:
        said = listed("run" + "s" * (len(note["numbered"]) > 1), note["numbered"])
        print(f"seeds numbered by the place of their folders, {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
