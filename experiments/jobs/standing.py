"""How runs stand, read from their folders alone; fast enough for ten thousand of them."""

import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from analysis import equal_codes
from analysis.refusals import RecordError
from experiments.files import numbered_in, read_json
from experiments.manifest import Entry
from experiments.records.claims import HEARTBEAT_SECONDS, boot_id, process_start, read_owner
from experiments.records.provenance import cpu_model
from experiments.records.schema import COLUMNS, FINISHED, Done
from ppo.config import RunConfig
from ppo.refusals import UserError

COMPLETE = ("done", *(status for status in FINISHED if status != "complete"))


@dataclass(frozen=True)
class Standing:
    """One run: its state, how far it is, and what a person wants to know about it."""

    state: str  # done | diverged | faulty | failed | running | stopped (begun, no process at work) | missing
    iteration: int = 0
    note: str = ""  # running: who and where; failed: the line of its error; missing, stopped: why; done: its score
    steps_per_second: float = 0.0  # of the run's whole pack, while it runs
    code: str = ""  # the id of the code that has finished it, where that is another one, proved equal


def standings(entries: Sequence[Entry], records: Path, code_id: str) -> list[Standing]:
    """One per run, in order. `code_id` says whose runs are meant; what only an equal code has finished is done too."""
    runs = records / "runs"
    there = equal_codes.folders(runs, code_id, proofs())
    now = file_system_time(runs / code_id) if there else 0.0
    found = []
    for entry in entries:
        if (folder := there.get(entry.folder_name)) is None:
            found.append(Standing("missing"))
        else:
            code = "" if folder.parent.name == code_id else folder.parent.name
            found.append(replace(standing(folder, entry.run.config, now), code=code))
    return found


def proofs() -> list[equal_codes.Proof]:
    try:
        return equal_codes.read()
    except RecordError as error:
        raise UserError(str(error)) from error


def by_equal_codes(stands: Iterable[Standing], code_id: str) -> list[str]:
    """A line for each other code that has trained some of these runs, with what proved it equal to `code_id`."""
    counts = Counter(stand.code for stand in stands if stand.code)
    return equal_codes.describe(counts, code_id, proofs(), cpu_model()) if counts else []


def runs_in(parts: Path | None, code_id: str) -> Mapping[str, str]:
    """Ids of the runs that parts of a dataset hold, trained by this code, or by an equal one, whose id stands behind
    them; a refusal where there are no parts."""
    if parts is None:
        return {}
    from analysis.dataset import parts_of  # pandas takes a while, and few studies have parts

    if (found := parts_of(parts)) == [parts]:
        raise UserError(f"parts={parts}: there are no parts of a dataset there; python -m analysis.parts writes them")
    tables = [pq.read_table(part / "runs.parquet", columns=["run_id", "code_id"]) for part in found]
    pairs = [(run["run_id"], run["code_id"]) for table in tables for run in table.to_pylist()]
    own = {run: "" for run, code in pairs if code == code_id}
    equal = equal_codes.ways(code_id, proofs())
    return {run: code for run, code in pairs if code in equal} | own


def kept_as_done(entries: Sequence[Entry], stands: Sequence[Standing], kept: Mapping[str, str]) -> list[Standing]:
    """Standings in which runs that parts hold are done, unless their folders here are whole and say more."""
    return [
        Standing("done", entry.run.config.iterations, "in the parts", code=kept[entry.run_id])
        if entry.run_id in kept and stand.state not in COMPLETE
        else stand
        for entry, stand in zip(entries, stands, strict=True)
    ]


def standing(folder: Path, config: RunConfig, now: float) -> Standing:
    """One run's. `now` is the file system's time, against which a heartbeat elsewhere is judged."""
    names = {path.name for path in folder.iterdir()}
    if "done.json" in names:
        done: Done = read_json(folder / "done.json")
        if done["status"] == "faulty":
            note = "{quantity} not finite at env step {env_step}: the environment's fault".format_map(
                done["not_finite"]
            )
            return Standing("faulty", done["env_steps"] // config.profile.steps, note)
        score = "no episode finished" if done["score"] is None else f"score {done['score']:.1f}"
        state = "done" if done["status"] == "complete" else done["status"]
        return Standing(state, done["env_steps"] // config.profile.steps, score)
    numbers = numbered_in(folder, "attempt-")
    attempt = folder / f"attempt-{max(numbers, default=0)}"
    iteration, rate = reached(attempt / "timing.csv", config.profile.steps)
    if (who := at_work(attempt, now)) is not None:
        return Standing("running", iteration, who, rate)
    if "failed.json" in names:
        return Standing("failed", iteration, read_json(folder / "failed.json")["error"])
    return Standing("stopped", iteration) if numbers else Standing("missing")


def at_work(attempt: Path, now: float) -> str | None:
    """Who is at work in an attempt's folder, without waiting: for showing, never for deciding who may write."""
    try:
        owner = read_owner(attempt / "owner.json")
        beat = (attempt / "heartbeat").stat().st_mtime
    except (OSError, UserError):
        return None
    job = owner.get("slurm_job_id")
    name = f"process {owner['pid']} on {owner['host']}" + (f", job {job}" if job else "")
    if owner["host"] == socket.gethostname() and owner["boot_id"] == boot_id():
        return name if process_start(owner["pid"]) == owner["process_start"] else None
    return name if now - beat < 4 * HEARTBEAT_SECONDS else None


def reached(timing: Path, steps: int) -> tuple[int, float]:
    """The last iteration in timing.csv, and its pack's env steps per second; `steps`: a run's per iteration.

    Zeros where the file is not there, or not what an attempt writes: this is for showing.
    """
    try:
        with timing.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 300))
            lines = file.read().decode().rpartition("\n")[0].splitlines()
        rows = [
            line.split(",")
            for line in lines
            if line[:1].isdigit() and line.count(",") == len(COLUMNS["timing.csv"]) - 1
        ]
        if not rows:
            return 0, 0.0
        iteration, _, size, *parts = rows[-1]
        seconds = sum(map(float, parts))  # its own: since the row before, the run may have stood still for days
        return int(iteration), int(size) * steps / seconds if seconds > 0 else 0.0
    except (OSError, ValueError):
        return 0, 0.0


def file_system_time(folder: Path) -> float:
    """Now, by the clock that stamps files there; by this machine's where it may not write: it is for showing."""
    probe = folder / f".now-{socket.gethostname()}-{os.getpid()}"
    try:
        probe.touch()
        stamped = probe.stat().st_mtime
        probe.unlink()
        return stamped
    except OSError:
        return time.time()
