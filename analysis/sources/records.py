"""Runs from records: a records root, a folder inside one, or a study."""

import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from analysis.dataset import RUNS, SCORE_EPISODES
from analysis.records import RecordError, attempts_with, variant_of

EPISODES = {"env_step": pa.int64(), "return": pa.float64(), "length": pa.int32()}
COUNTS = ("iteration", "env_steps")  # whole numbers of iterations.csv; the others are diagnostics


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
    study: Mapping[str, Any] = field(default_factory=dict)


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
    """The runs of its manifest, trained by the code that the study command was last given under."""
    try:
        lines = [json.loads(line) for line in (study / "manifest.jsonl").read_text().splitlines()]
        written = json.loads((study / "study.json").read_text())
        runs = study.parent.parent / "runs" / written["code_id"]
        there = {path.name.rpartition("-")[2]: path for path in runs.glob("*")}
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
                **{name: written[name] for name in ("overrides", "tables", "figures")},
            },
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RecordError(f"{study} is not a whole study ({told(error)})") from error


def read_run(folder: Path, variants: Mapping[str, str]) -> Collected:
    """One run's folder. Raises Broken if it is not whole or not what its digests say, NeverBegun without rows."""
    try:
        head = json.loads((folder / "config.json").read_text())
        done = json.loads((folder / "done.json").read_text()) if (folder / "done.json").exists() else None
        attempt = newest_attempt(folder) if done is None else folder / f"attempt-{done['attempt']}"
        texts = {name: (attempt / f"{name}.csv").read_bytes() for name in ("episodes", "iterations", "timing")}
        config, names = head["config"], head["names"]
        if done is not None:
            for name in ("episodes", "iterations"):
                if hashlib.sha256(texts[name]).hexdigest() != done[f"{name}_sha256"]:
                    raise Broken(f"{attempt}/{name}.csv is not what done.json's digest says: it was altered")
        episodes, iterations, timing = (table(texts[name]) for name in texts)
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
            "status": "partial" if done is None else done["status"],
            "measure": "training episodes",
            "budget": config["env_steps"],
            "env_steps": done["env_steps"] if done else last_of(iterations["env_steps"]),
            **score_of(episodes),
            "seconds": seconds_of(timing),
            "peak_mb": peak_of(attempt),
            **{name: config[name] for name in ("backend", "numerics", "device")},
            **provenance_of(folder),
            "config": json.dumps(config, sort_keys=True),
            "source": str(folder),
        }
        pa.RecordBatch.from_pylist([row], RUNS)  # a seed that is a word is found here, where its folder is known
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise Broken(f"{folder} is broken ({told(error)})") from error
    return Collected(row, episodes, iterations)


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
    types = {name: EPISODES.get(name, pa.int64() if name in COUNTS else pa.float64()) for name in names}
    convert = pa.csv.ConvertOptions(column_types=types, null_values=[""])
    return pa.csv.read_csv(io.BytesIO(whole), convert_options=convert)


def last_of(column: pa.ChunkedArray) -> int:
    return int(column[-1].as_py()) if len(column) else 0


def score_of(episodes: pa.Table) -> dict[str, Any]:
    """The run's score: mean return of its last 100 finished episodes (paper, section 6.1)."""
    last = episodes["return"][-SCORE_EPISODES:].to_numpy()
    finite = len(last) and np.isfinite(last).all()
    return {
        "episodes": len(episodes),
        "score": math.fsum(last) / len(last) if finite else math.nan,
        "score_episodes": len(last),
    }


def seconds_of(timing: pa.Table) -> float:
    """Wall seconds that this run took: its share of its pack's."""
    spent = sum(timing[part].to_numpy() for part in ("environment", "inference", "update"))
    return float(np.sum(spent / timing["pack_size"].to_numpy()))


def peak_of(attempt: Path) -> float:
    """MB; NaN of a run that is not finished, or of a suite that did not write it yet."""
    path = attempt / "resources.json"
    return float(json.loads(path.read_text())["peak_mb"]) if path.exists() else math.nan


def provenance_of(folder: Path) -> dict[str, Any]:
    seen = json.loads((folder / "provenance.json").read_text())
    commit = (seen["commit"] or "unknown")[:12] + ("+" if seen["dirty"] else "")
    return {"commit": commit, **{name: seen[name] for name in ("host", "cpu", "gpu")}}


def told(error: Exception) -> str:
    """On one line; a KeyError's own words are the key alone."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
