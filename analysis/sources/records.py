"""Runs from records: a records root, a folder inside one, or a study."""

import hashlib
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from analysis import equal_codes
from analysis.dataset import RUNS, StudyKept
from analysis.records import LARGEST_JSON, UNREADABLE, RecordError, attempts_with, read_json, read_whole, variant_of
from experiments.records.schema import (
    COLUMNS,
    FINISHED,
    KINDS,
    SCORE_EPISODES,
    SPENT,
    Done,
    Head,
    StudyNote,
    newer,
    score,
    seal,
)

EPISODES = {name: pa.type_for_alias(column.kind) for name, column in COLUMNS["episodes.csv"].items()}
RECORD_NAME = re.compile(r"(?P<cell>.+)\.s(?P<seed>\d+)-(?P<run_id>[0-9a-f]{12})")


@dataclass(frozen=True)
class Collected:
    """One run as a dataset takes it: a row of `runs`, its episodes and its iterations."""

    row: dict[str, Any]
    episodes: pa.Table
    iterations: pa.Table


class Broken(Exception):
    """What is wrong with one run: one sentence."""

    kind = "broken"


class NeverBegun(Broken):
    """A run that has a folder and no rows."""

    kind = "missing"


@dataclass(frozen=True)
class Place:
    """What a source names: run folders, and of a study the names of its variants by run id, the runs that nobody has
    begun, and what a dataset should remember of it."""

    folders: list[Path]
    variants: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()
    study: StudyKept | None = None


def place_of(source: str, records: Path) -> Place:
    """A study of these records, a study's folder, or any folder of records; RecordError if it is none of these."""
    for study in (records / "studies" / source, Path(source)):
        if (study / "manifest.jsonl").exists():
            return place_of_study(study)
    root = Path(source)
    if not root.is_dir():
        known = sorted(path.parent.name for path in records.glob("studies/*/manifest.jsonl"))
        raise RecordError(
            f"{source} is neither a folder nor a study in {records}/studies ({', '.join(known) or 'none'})"
        )
    root = root / "runs" if (root / "runs").is_dir() else root
    marks = ("config.json", "done.json")  # either alone tells of a run
    return Place(sorted({path.parent for path in root.rglob("*.json") if path.name in marks}))


def place_of_study(study: Path) -> Place:
    """The runs of its manifest, trained by the code that the study command was last given under, or an equal one."""
    try:
        lines = [json.loads(line) for line in read_whole(study / "manifest.jsonl").splitlines()]
        written: StudyNote = read_json(study / "study.json")
        found = equal_codes.folders(study.parent.parent / "runs", written["code_id"], equal_codes.read())
        there = {name.rpartition("-")[2]: path for name, path in found.items()}
        absent = [line for line in lines if line["run_id"] not in there]
        return Place(
            folders=[there[line["run_id"]] for line in lines if line["run_id"] in there],
            variants={line["run_id"]: line["variant"] for line in lines},
            missing=[
                f"{line['config']['env']['id']} {line['variant']} seed {line['config']['seed']}" for line in absent
            ],
            study={
                "name": study.name,
                "variants": list(dict.fromkeys(line["variant"] for line in lines)),
                "environments": list(dict.fromkeys(line["config"]["env"]["id"] for line in lines)),
                "overrides": written["overrides"],
                "tables": written["tables"],
                "figures": written["figures"],
            },
        )
    except UNREADABLE as error:
        raise RecordError(f"{study} is not a whole study ({told(error)})") from error


def read_run(folder: Path, variants: Mapping[str, str]) -> Collected:
    """One run's folder. Raises Broken if it is not whole or not what its digests say, NeverBegun without rows."""
    try:
        said = read_whole(folder / "config.json", LARGEST_JSON)
        head: Head = json.loads(said)
        if reason := newer(head):
            raise Broken(f"{folder} is of newer code: {reason}")
        done: Done | None = read_json(folder / "done.json") if (folder / "done.json").exists() else None
        refuse_another_name(folder, head)
        if done is not None:
            refuse_another_run(folder, said, head, done)
        attempt = newest_attempt(folder) if done is None else folder / f"attempt-{done['attempt']}"
        texts = {name: read_whole(attempt / f"{name}.csv") for name in ("episodes", "iterations", "timing")}
        config, names = head["config"], head["names"]
        if done is not None:
            digests = {"episodes": done["episodes_sha256"], "iterations": done["iterations_sha256"]}
            for name, digest in digests.items():
                if hashlib.sha256(texts[name]).hexdigest() != digest:
                    raise Broken(f"{attempt}/{name}.csv is not what done.json's digest says: it was altered")
        episodes, iterations, timing = (table(texts[name]) for name in texts)
        status = "partial" if done is None else done["status"]
        scored = score_of(episodes, status)
        if done is not None:
            refuse_other_results(folder, done, iterations, scored["score"])
        row = {
            "run": f"{head['run_id']}-{head['code_id']}",
            "run_id": head["run_id"],
            "code_id": head["code_id"],
            "variant": variants.get(head["run_id"])
            or names.get("variant")
            or head.get("label")
            or variant_of(config["algo"]),
            "env": config["env"]["id"],
            "profile": names["profile"],
            "seed": config["seed"],
            "status": status,
            "not_finite": "" if done is None else not_finite_in(done),
            "measure": "training episodes",
            "budget": config["env_steps"],
            "env_steps": done["env_steps"] if done else last_of(iterations["env_steps"]),
            **scored,
            "seconds": seconds_of(timing),
            "peak_mb": peak_of(attempt),
            **{name: config[name] for name in ("backend", "numerics", "device")},
            **provenance_of(folder),
            "config": json.dumps(config, sort_keys=True),
            "source": str(folder),
        }
        pa.RecordBatch.from_pylist([row], RUNS)  # a seed that is a word is found here, where its folder is known
    except UNREADABLE as error:
        raise Broken(f"{folder} is broken ({told(error)})") from error
    return Collected(row, episodes, iterations)


def refuse_another_name(folder: Path, head: Head) -> None:
    """Raise Broken if the folder has a record's name, and config.json is of another run. A folder that somebody gave a
    name of their own tells nothing."""
    if not (named := RECORD_NAME.fullmatch(folder.name)):
        return
    config, place = head["config"], folder.resolve()
    env = re.sub(r"[^\w-]", "_", config["env"]["id"])
    agree = (
        named["run_id"] == head["run_id"],
        named["seed"] == str(config["seed"]),
        re.sub(rf"^{re.escape(env)}(-\d+)?-", "", named["cell"]) in labels_of(config["algo"]),
        not re.fullmatch("[0-9a-f]{12}", place.parent.name) or place.parent.name == head["code_id"],
    )
    for what, agrees in zip(("run id", "seed", "task or variant", "code id"), agree, strict=True):
        if not agrees:
            raise Broken(f"{folder} has a config.json with another {what} than the folder's name: one was altered")


def refuse_another_run(folder: Path, said: bytes, head: Head, done: Done) -> None:
    """Raise Broken if done.json is not of the run in config.json, or either is not as it was written."""
    if "sha256" in done and seal(done) != done["sha256"]:  # records of older code have none
        raise Broken(f"{folder}/done.json is not what its own digest says: it was altered")
    if type(done["attempt"]) is not int:
        raise Broken(f"{folder}/done.json has an attempt that is no whole number: it was altered")
    if done["status"] not in FINISHED:
        raise Broken(f"{folder}/done.json has a status that is none of {', '.join(FINISHED)}")
    there = {"run_id": done["run_id"], "code_id": done["code_id"], "seed": done["seed"]}
    here = {"run_id": head["run_id"], "code_id": head["code_id"], "seed": head["config"]["seed"]}
    for name, value in here.items():
        if there[name] != value:
            raise Broken(
                f"{folder}/done.json is of {name} {there[name]} and config.json of {value}: one is another run's, or "
                "was altered"
            )
    if "config_sha256" in done and hashlib.sha256(said).hexdigest() != done["config_sha256"]:
        raise Broken(f"{folder}/config.json is not what done.json's digest says: it was altered")


def refuse_other_results(folder: Path, done: Done, iterations: pa.Table, score: float) -> None:
    """Raise Broken if done.json has other results than the tables."""
    if len(iterations) and done["env_steps"] != last_of(iterations["env_steps"]):
        raise Broken(
            f"{folder}/done.json has {done['env_steps']} env steps, and iterations.csv ends at "
            f"{last_of(iterations['env_steps'])}: one was altered"
        )
    refuse_another_score(f"{folder}/done.json", done["score"], score)


def refuse_another_score(place: str, said: float | None, score: float) -> None:
    """Raise Broken if a run has another score than its episodes give; a sum in another order may differ a little."""
    there = math.nan if said is None else float(said)
    if not (math.isnan(there) and math.isnan(score)) and not math.isclose(there, score, rel_tol=1e-9, abs_tol=1e-9):
        raise Broken(f"{place} has score {said}, and the episodes give {score}: one was altered")


def labels_of(algo: Mapping[str, Any]) -> set[str]:
    """What a run of these settings may be called: its objective, alone or with the value of one of its settings."""
    numbers = [value for value in algo.values() if isinstance(value, int | float)]
    return {algo["objective"], *(f"{algo['objective']}_{value:g}" for value in numbers)}


def not_finite_in(done: Mapping[str, Any]) -> str:
    """What was first no finite number and where, in words; empty where nothing was, or where that was not written."""
    found = done.get("not_finite")
    return f"{found['quantity']} at env step {found['env_step']}" if found else ""


def newest_attempt(folder: Path) -> Path:
    """Of an unfinished run. What was claimed and not begun has no timing.csv, the last file to be made."""
    begun = attempts_with("timing.csv", folder)
    if not begun:
        raise NeverBegun(f"{folder} was never begun")
    return begun[-1]


def table(text: bytes) -> pa.Table:
    """A CSV file's whole lines; the last one may be half written. Empty cells are NaN."""
    whole = text[: text.rfind(b"\n") + 1]
    names = whole[: whole.find(b"\n")].decode().split(",")
    convert = pa.csv.ConvertOptions(column_types={name: type_of(name) for name in names}, null_values=[""])
    return pa.csv.read_csv(io.BytesIO(whole), convert_options=convert)


def type_of(column: str) -> pa.DataType:
    """Of a column of a run's tables; those that the schema does not name are diagnostics."""
    return pa.type_for_alias(KINDS.get(column, "float64"))


def last_of(column: pa.ChunkedArray) -> int:
    return int(column[-1].as_py()) if len(column) else 0


def score_of(episodes: pa.Table, status: str = "complete") -> dict[str, Any]:
    """The run's score, NaN where it has none, and of how many episodes it is."""
    last = episodes["return"][-SCORE_EPISODES:].to_numpy().tolist()
    found = score(last, status)
    return {
        "episodes": len(episodes),
        "score": math.nan if found is None else found,
        "score_episodes": len(last),
    }


def seconds_of(timing: pa.Table) -> float:
    """Wall seconds that this run took: its share of its pack's."""
    spent = sum(timing[part].to_numpy() for part in SPENT)
    return float(np.sum(spent / timing["pack_size"].to_numpy()))


def peak_of(attempt: Path) -> float:
    """MB; NaN of a run that is not finished, or of a suite that did not write it yet."""
    path = attempt / "resources.json"
    return float(read_json(path)["peak_mb"]) if path.exists() else math.nan


def provenance_of(folder: Path) -> dict[str, Any]:
    seen = read_json(folder / "provenance.json")
    commit = (seen["commit"] or "unknown")[:12] + ("+" if seen["dirty"] else "")
    return {"commit": commit, **{name: seen[name] for name in ("host", "cpu", "gpu")}}


def told(error: Exception) -> str:
    """On one line; a KeyError's own words are the key alone."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
