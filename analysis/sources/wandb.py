"""Runs read back from Weights & Biases as `experiments.tracking` wrote them: offline files, or a project on a server.

A run gives what `records.read_run` gives for its folder, `source` apart, as far as W&B has it: infinite values are
empty like NaN, because W&B holds neither; an unfinished run reaches to a checkpoint; and one that was resumed may have
other timings (`seconds`) than its record, where iterations were trained twice.
"""

import hashlib
import json
import math
import os
import re
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import wandb
from wandb.sdk.lib.service.service_connection import WandbApiFailedError
from wandb.util import get_core_path

from analysis.records import RecordError, variant_of
from analysis.sources.records import (
    EPISODES,
    Broken,
    Collected,
    not_finite_in,
    refuse_another_score,
    score_of,
    seconds_of,
    table,
    type_of,
)
from experiments.records.schema import COLUMNS, SCORE_EPISODES, SPENT, Head, newer

WHOLE_NUMBERS = (
    "n_step", "backtracks", "cg_iterations", "fisher_every", "candidates", "horizon", "actors", "segment", "rollouts",
    "epochs", "max_episode_steps", "minibatch_size", "hidden_sizes", "seed", "env_steps", "frame_skip", "frame_stack",
    "screen", "noop_max",
)  # fmt: skip
"""Settings that are integers, of runs that do not say so themselves. All other numbers are floats, of which W&B writes
1.0 as 1."""

ADDED = ("_wandb", *Head.__annotations__, "whole_numbers", "provenance")
"""Beside the settings, in a W&B run's config."""

REQUEST_SECONDS = 20.0  # for one answer of the server, or one file
PATIENCE_SECONDS = 60.0  # for one question, asked again while there is no answer
SETTLE_SECONDS = 0.3  # after a failure; who leaves while the client's service still answers waits for its end for ever
RETRIES = 4  # 0 would be taken for the client's own 20
KEPT_ENVIRONMENT = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_HTTP_PROXY", "WANDB_HTTPS_PROXY", "WANDB_CONFIG_DIR")
OWN_ENVIRONMENT = ("WANDB_SERVICE",)  # the client sets it itself


@dataclass
class Held:
    """What W&B holds of one run."""

    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)  # of one iteration's, the last counts
    episodes: str | None = None  # the content of episodes.csv; None where it is not

    def attach(self, path: Path) -> None:
        self.episodes = path.read_bytes().decode(errors="replace")


def lacks_episodes(run: Collected) -> bool:
    """Whether its rows count finished episodes that its table does not have: W&B has no episodes.csv, or not yet."""
    return len(run.episodes) < run.row["episodes"]


# Offline files


def from_files(folder: Path) -> Iterator[Collected | Broken]:
    """Every run in the offline files under a folder, ordered by id. Raises RecordError if there are none.

    A run that is not as it should be comes as the sentence about it.
    """
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("offline-run-*/run-*.wandb"), key=lambda path: path.parent.name):  # by time
        files.setdefault(path.stem.removeprefix("run-"), []).append(path)
    if not files:
        raise RecordError(f"no offline W&B run under {folder}; tracking=wandb_offline writes them")
    for run_id, pieces in sorted(files.items()):
        try:
            yield collected(run_id, in_files(pieces), str(pieces[-1].parent))
        except Broken as broken:
            yield broken


def in_files(pieces: Sequence[Path]) -> Held:
    """What a run's files, oldest first, say together: one for each time that it was resumed."""
    held, damaged = Held(), False
    for path in pieces:
        command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file", str(path)]
        answer = subprocess.run(command, capture_output=True)
        if answer.returncode != 0:
            raise Broken(f"{path} cannot be read: {sentence(answer.stderr.decode(errors='replace'))}")
        damaged |= b"corrupt" in answer.stderr  # it skips what its checksums refuse, and calls that a success
        for line in answer.stdout.splitlines():
            match json.loads(line):
                case {"type": "run", "run": {"config": {"update": update}}}:
                    held.config |= update
                case {"type": "history", "history": {"item": row}}:
                    held.rows.append(row)
                case {"type": "summary", "summary": {"update": update}}:
                    held.summary |= update
        if (attached := path.parent / "files" / "episodes.csv").exists():
            held.attach(attached)
    if damaged and "status" not in held.summary:
        raise Broken(f"{pieces[-1].parent} has a damaged file, so how far the run went is unknown")
    return held


# A server


def from_server(path: str, cache: Path) -> Iterator[Collected | Broken]:
    """Every run of `entity/project` (or `project`, of the key's own entity), oldest first.

    A finished run that is here whole is kept under `cache`, and fetched again only if its config or summary on the
    server are others by then: the same call goes on where a killed one was. Raises RecordError if the server does not
    give what is asked for, at the start or later. A run that is not as it should be comes as the sentence about it.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with refusals(path):
        for run in listed(path):
            try:
                yield of_server(run, cache)
            except Broken as broken:
                yield broken


def listed(path: str) -> Iterator[Any]:
    try:
        yield from connected().runs(path, lazy=False)
    except ValueError as error:
        raise RecordError(f"W&B has no project {path}, or none that this key may read") from error


def of_server(run: Any, cache: Path) -> Collected:
    """One run, from the cache if that is up to date."""
    source = "/".join(run.path)
    refuse_others(run.id, source)
    kept = cache / f"{run.id}.json"
    held = read_kept(kept)
    if held is not None and (held.config, held.summary) == (run.config, run.summary_metrics):
        return collected(run.id, held, source)
    held = fetched(run)
    found = collected(run.id, held, source)
    if found.row["status"] != "partial" and not lacks_episodes(found):
        keep(kept, held)
    return found


def fetched(run: Any) -> Held:
    """All rows, never a sample of them, and the episodes."""
    held = Held(run.config, run.summary_metrics, list(run.scan_history(use_cache=False)))
    with TemporaryDirectory() as folder:
        for file in run.files(names=["episodes.csv"]):
            if file.size:  # one that was announced and never sent has none
                file.download(folder).close()
                held.attach(Path(folder) / "episodes.csv")
    return held


def read_kept(path: Path) -> Held | None:
    try:
        return Held(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):  # not there, or no longer whole
        return None


def keep(path: Path, held: Held) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        json.dump(asdict(held), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def connected() -> wandb.Api:
    """The server, with limits: left to itself the client would wait for minutes, and ask for a key."""
    others = {name for name in os.environ if name.startswith("WANDB_")} - {*KEPT_ENVIRONMENT, *OWN_ENVIRONMENT}
    if others:  # WANDB_ENTITY reads another's project, WANDB_DEBUG writes the key into a log
        raise RecordError(f"unset {', '.join(sorted(others))}: settings of others could change what is read")
    settings = wandb.Settings(
        silent=True, x_graphql_timeout_seconds=REQUEST_SECONDS, x_graphql_retry_max=RETRIES,
        x_file_transfer_timeout_seconds=REQUEST_SECONDS, x_file_transfer_retry_max=RETRIES,
    )  # fmt: skip
    try:
        wandb.setup(settings)
        if not wandb.login(prompt=False, verify=False):
            raise RecordError("no W&B API key: set WANDB_API_KEY, or give the command wandb login")
        return wandb.Api(timeout=int(PATIENCE_SECONDS))
    except ValueError:  # its message may quote the key
        raise RecordError("WANDB_API_KEY, WANDB_BASE_URL or W&B's file of settings is not what W&B expects") from None


@contextmanager
def refusals(path: str) -> Iterator[None]:
    try:
        yield
    except (wandb.errors.Error, WandbApiFailedError, ValueError) as error:
        time.sleep(SETTLE_SECONDS)
        raise RecordError(f"W&B does not give {path}: {sentence(str(error))}") from error


# What both hold


def collected(run_id: str, held: Held, source: str) -> Collected:
    """The run as a dataset takes it. Raises Broken if it is not whole, or not what its digest says."""
    refuse_others(run_id, source)
    try:
        if reason := newer(held.config):
            raise Broken(f"{source} is of newer code: {reason}")
        whole = held.config.get("whole_numbers", WHOLE_NUMBERS)
        config = {name: as_set(name, value, whole) for name, value in held.config.items() if name not in ADDED}
        names, seen = held.config["names"], held.config["provenance"]
        done = "status" in held.summary
        rows = in_order(held, source)
        episodes = episodes_of(held, source) if done and held.episodes is not None else None
        status = held.summary["status"] if done else "partial"
        scored = score_in(rows, status) if episodes is None else score_of(episodes, status)
        if episodes is not None and "score" in held.summary:
            refuse_another_score(f"{source}: its summary", held.summary["score"], scored["score"])
        row = {
            "run": run_id,
            "run_id": held.config["run_id"],
            "code_id": held.config["code_id"],
            "variant": names.get("variant") or held.config.get("label") or variant_of(config["algo"]),
            "env": config["env"]["id"],
            "profile": names["profile"],
            "seed": config["seed"],
            "status": status,
            "not_finite": not_finite_in(held.summary),
            "measure": "training episodes",
            "budget": config["env_steps"],
            "env_steps": int(rows[-1]["env_steps"]) if rows else 0,
            **scored,
            "seconds": seconds_of(columns(rows, (*SPENT, "pack_size"), "timing/")),
            "peak_mb": held.summary.get("peak_mb", math.nan),
            **{name: config[name] for name in ("backend", "numerics", "device")},
            "commit": (seen["commit"] or "unknown")[:12] + ("+" if seen["dirty"] else ""),
            **{name: seen[name] for name in ("host", "cpu", "gpu")},
            "config": json.dumps(config, sort_keys=True),
            "source": source,
        }
    except (KeyError, TypeError, ValueError) as error:
        raise Broken(f"{source} is broken: {type(error).__name__} {sentence(str(error))}") from error
    empty = pa.schema(list(EPISODES.items())).empty_table()
    return Collected(row, empty if episodes is None else episodes, columns(rows, tuple(COLUMNS["iterations.csv"])))


def refuse_others(run_id: str, source: str) -> None:
    if not re.fullmatch("[0-9a-f]{12}-[0-9a-f]{12}", run_id):
        raise Broken(f"{source} is not of experiments.tracking.mirror, which names its runs <run id>-<code id>")


def sentence(text: str) -> str:
    return " ".join(text.split())[:300]


def as_set(name: str, value: Any, whole_numbers: Collection[str]) -> Any:
    """A setting with the types that it has in config.json."""
    if isinstance(value, dict):
        return {inner: as_set(inner, item, whole_numbers) for inner, item in value.items()}
    is_float = type(value) is int and name not in whole_numbers
    return float(value) if is_float else value


def in_order(held: Held, source: str) -> list[dict[str, Any]]:
    """One row per iteration. Raises Broken if one is missing."""
    rows = {int(row["iteration"]): row for row in held.rows}
    last = max(rows, default=0)
    if missing := [number for number in range(1, last + 1) if number not in rows]:
        raise Broken(f"{source} lacks {len(missing)} of {last} iterations, the first of them {missing[0]}")
    reached = rows[last]["env_steps"] if rows else 0
    if "status" in held.summary and reached != held.summary["env_steps"]:
        raise Broken(f"{source} is not complete: its rows end at env step {reached} of {held.summary['env_steps']}")
    return [rows[number] for number in sorted(rows)]


def episodes_of(held: Held, source: str) -> pa.Table:
    content = str(held.episodes).encode()
    if hashlib.sha256(content).hexdigest() != held.summary["episodes_sha256"]:
        raise Broken(f"{source}: episodes.csv is not what the summary's digest says; it was altered")
    return table(content)


def score_in(rows: Sequence[dict[str, Any]], status: str) -> dict[str, Any]:
    """`score_of`, of the rows alone: their last running mean is the score."""
    finished = int(sum(row["episodes"] for row in rows))
    score = rows[-1].get(f"return_{SCORE_EPISODES}") if rows and status != "faulty" else None
    return {
        "episodes": finished,
        "score": float("nan") if score is None else float(score),
        "score_episodes": min(finished, SCORE_EPISODES),
    }


def columns(rows: Sequence[dict[str, Any]], names: Sequence[str], prefix: str = "") -> pa.Table:
    """The rows' values by name, empty where there is none."""

    def values(name: str) -> list[float | None]:
        kind = int if pa.types.is_integer(type_of(name)) else float
        return [None if (value := row.get(prefix + name)) is None else kind(value) for row in rows]

    return pa.table({name: pa.array(values(name), type_of(name)) for name in names})
