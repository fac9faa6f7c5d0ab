"""Runs from records: a records root, a folder inside one, or a study."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from analysis.dataset import SCORE_EPISODES
from analysis.records import RecordError, variant_of

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


def folders_of(place: str, records: Path) -> tuple[list[Path], dict[str, str], list[str]]:
    """Run folders, names of variants by run id, and ids that a study lists but nobody has begun."""
    study = records / "studies" / place
    if (study / "manifest.jsonl").exists():
        lines = [json.loads(line) for line in (study / "manifest.jsonl").read_text().splitlines()]
        launches = sorted(study.glob("launches/*/launch.json"), key=lambda path: int(path.parent.name))
        code = json.loads(launches[-1].read_text())["code_id"] if launches else None
        there = {path.name.rpartition("-")[2]: path for path in (records / "runs" / str(code)).glob("*")}
        folders = [there[line["run_id"]] for line in lines if line["run_id"] in there]
        missing = [f"{line['env']} {line['variant']} seed {line['config']['seed']}" for line in lines
                   if line["run_id"] not in there]  # fmt: skip
        return folders, {line["run_id"]: line["variant"] for line in lines}, missing
    root = Path(place)
    if not root.is_dir():
        known = sorted(path.parent.name for path in records.glob("studies/*/manifest.jsonl"))
        raise RecordError(
            f"{place} is neither a folder nor a study in {records}/studies ({', '.join(known) or 'none'})"
        )
    root = root / "runs" if (root / "runs").is_dir() else root
    return sorted({path.parent for path in root.rglob("config.json")}), {}, []


def read_run(folder: Path, variants: Mapping[str, str]) -> Collected:
    """One run's folder. Raises Broken if it is not whole, or not what its own digests say."""
    head = read_json(folder / "config.json")
    done = read_json(folder / "done.json") if (folder / "done.json").exists() else None
    attempts = sorted(folder.glob("attempt-*"), key=lambda path: int(path.name.partition("-")[2]))
    if not attempts:
        raise Broken(f"{folder} has no attempt; it was never begun")
    attempt = attempts[-1] if done is None else folder / f"attempt-{done['attempt']}"
    try:
        texts = {name: (attempt / f"{name}.csv").read_bytes() for name in ("episodes", "iterations", "timing")}
        config, names = head["config"], head["names"]
        if done is not None:
            for name in ("episodes", "iterations"):
                if hashlib.sha256(texts[name]).hexdigest() != done[f"{name}_sha256"]:
                    raise Broken(f"{attempt}/{name}.csv is not what done.json's digest says; it was altered")
        episodes, iterations, timing = (table(texts[name]) for name in texts)
        row = {
            "run": f"{head['run_id']}-{head['code_id']}",
            "run_id": head["run_id"],
            "code_id": head["code_id"],
            "variant": variants.get(head["run_id"]) or variant_of(config["algo"]),
            "env": config["env"]["id"],
            "profile": names["profile"],
            "seed": config["seed"],
            "status": "partial" if done is None else done["status"],
            "budget": config["env_steps"],
            "env_steps": done["env_steps"]
            if done
            else int(iterations["env_steps"][-1].as_py())
            if len(iterations)
            else 0,
            **score_of(episodes),
            "seconds": seconds_of(timing),
            **{name: config[name] for name in ("backend", "numerics", "device")},
            **provenance_of(folder),
            "config": json.dumps(config, sort_keys=True),
            "source": str(folder),
        }
    except (OSError, KeyError, TypeError, pa.ArrowInvalid) as error:
        raise Broken(f"{folder} is broken: {' '.join(str(error).split())}") from error
    return Collected(row, episodes, iterations)


def table(text: bytes) -> pa.Table:
    """A CSV file's whole lines; the last one may be half written. Empty cells are NaN."""
    whole = text[: text.rfind(b"\n") + 1]
    names = whole[: whole.find(b"\n")].decode().split(",")
    types = {name: EPISODES.get(name, pa.int64() if name in COUNTS else pa.float64()) for name in names}
    convert = pa.csv.ConvertOptions(column_types=types, null_values=[""])
    return pa.csv.read_csv(io.BytesIO(whole), convert_options=convert)


def score_of(episodes: pa.Table) -> dict[str, Any]:
    """The run's score: mean return of its last 100 finished episodes (paper, section 6.1)."""
    last = episodes["return"].to_numpy()[-SCORE_EPISODES:]
    return {
        "episodes": len(episodes),
        "score": float(last.mean()) if len(last) else float("nan"),
        "score_episodes": len(last),
    }


def seconds_of(timing: pa.Table) -> float:
    """Wall seconds that this run took: its share of its pack's."""
    spent = sum(timing[part].to_numpy() for part in ("environment", "inference", "update"))
    return float(np.sum(spent / timing["pack_size"].to_numpy()))


def provenance_of(folder: Path) -> dict[str, Any]:
    seen = read_json(folder / "provenance.json")
    commit = (seen["commit"] or "unknown")[:12] + ("+" if seen["dirty"] else "")
    return {"commit": commit, **{name: seen[name] for name in ("host", "cpu", "gpu")}}


def read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
        return value
    except (OSError, ValueError) as error:
        raise Broken(f"{path} cannot be read: {error}") from error
