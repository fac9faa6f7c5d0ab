"""How a study stands: what its runs' folders say, and what its queue, its parts and its logs add."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import replace
from pathlib import Path

from experiments.files import read_json
from experiments.jobs.launch import Launch, launches_of
from experiments.jobs.slurm import Queued, Silent, in_queue
from experiments.jobs.standing import COMPLETE, Standing, by_equal_codes, kept_as_done, runs_in, standings
from experiments.manifest import Entry, read_manifest
from experiments.records.schema import StudyNote
from ppo.refusals import UserError, near_matches

STATES = (*COMPLETE, "running", "queued", "stopped", "failed", "missing")
LOG_END = 4096  # bytes of a task's log in which its last words are looked for

Waiting = Mapping[str, tuple[str, Queued]]
"""By run id: the job that will train it, by name and as the queue shows it."""


def study_folder(name: str, records: Path) -> Path:
    """The folder of a study instance, or a refusal with near matches."""
    known = sorted(path.parent.name for path in records.glob("studies/*/manifest.jsonl"))
    if name not in known:
        hint = near_matches(name, known) or (f"; there are {', '.join(known)}" if known else "")
        raise UserError(f"there is no study {name} in {records}/studies{hint}")
    return records / "studies" / name


def look(
    study: Path,
    asked: Callable[[Path, str], Waiting] = in_queue,
    held: Callable[[Path | None, str], Mapping[str, str]] = runs_in,
) -> list[tuple[Entry, Standing]]:
    """Every run of the study and how it stands, the queue and the parts included where there are any."""
    entries = read_manifest(study)
    if not (study / "study.json").exists():
        return [(entry, Standing("missing")) for entry in entries]
    written: StudyNote = read_json(study / "study.json")
    parts = Path(place) if (place := written.get("parts")) else None
    kept = held(parts, written["code_id"])
    stands = kept_as_done(entries, standings(entries, study.parent.parent, written["code_id"]), kept)
    launches = launches_of(study)
    waiting = (
        asked(study, written["code_id"]) if any(launch.head()["cluster"] == "slurm" for launch in launches) else {}
    )
    stands = [queued(stand, waiting.get(entry.run_id)) for entry, stand in zip(entries, stands, strict=True)]
    idle = {entry.run_id for entry, stand in zip(entries, stands, strict=True) if stand.state in ("missing", "stopped")}
    why = refusals(launches[0], idle) if launches and idle else {}
    return [
        (entry, replace(stand, note=why[entry.run_id]) if entry.run_id in why else stand)
        for entry, stand in zip(entries, stands, strict=True)
    ]


def look_anyway(study: Path) -> tuple[list[tuple[Entry, Standing]], str]:
    """What the folders alone tell where squeue does not answer or the parts are gone, and a note that says so."""
    notes = []

    def asked(study: Path, code_id: str) -> Waiting:
        try:
            return in_queue(study, code_id)
        except Silent:
            notes.append("squeue does not answer: runs that wait in its queue are shown as missing")
            return {}

    def held(parts: Path | None, code_id: str) -> Mapping[str, str]:
        try:
            return runs_in(parts, code_id)
        except UserError as error:
            notes.append(
                f"{error}; until the study command says parts= again, runs that only they hold are shown as missing"
            )
            return {}

    stands = look(study, asked, held)
    if any(stand.code for _, stand in stands):
        notes += by_equal_codes([stand for _, stand in stands], read_json(study / "study.json")["code_id"])
    return stands, "; ".join(notes)


def queued(stand: Standing, job: tuple[str, Queued] | None) -> Standing:
    """What the queue adds: a run that no process trains yet may be about to start."""
    if job is None or stand.state not in ("missing", "stopped", "failed"):
        return stand
    name, seen = job
    if seen.state == "RUNNING":
        return replace(stand, state="running", note=f"job {name} on {seen.node}")
    return replace(stand, state="queued", note=f"job {name} ({seen.reason})")


def refusals(launch: Launch, idle: Set[str]) -> dict[str, str]:
    """Of these run ids, those whose task gave up before it trained: the last line of its log, which says why."""
    found: dict[str, str] = {}
    for index, task in enumerate(launch.tasks()):
        if (runs := {run for pack in task for run in pack} & idle) and (line := last_line(log := launch.log(index))):
            found |= dict.fromkeys(runs, f"{line} ({log})")
    return {run: line for run, line in found.items() if line.startswith("error: ")}


def last_line(log: Path) -> str:
    """Of a task's own words: SLURM's, which follow them, are left out. Nothing if there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_END))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line and not line.startswith(("srun: ", "slurmstepd: "))), "")


def counts(stands: Iterable[Standing]) -> dict[str, int]:
    """How many runs are in each state, in the order of STATES."""
    found = Counter(stand.state for stand in stands)
    return {state: found[state] for state in STATES if found[state]}


def summarise(numbers: Mapping[str, int]) -> str:
    """'12 done, 3 running'."""
    return ", ".join(f"{count} {state}" for state, count in numbers.items()) or "no runs"
