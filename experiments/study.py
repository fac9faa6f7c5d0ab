"""A study from the command line: python -m experiments.study study=table1 [cluster=slurm] [dry_run=true]

conf/study ──expand once──▶ manifest ──what is missing, packed──▶ launch ──▶ this machine's cores, or SLURM's
"""

import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from experiments.choices import names_in
from experiments.commands import leave, typed
from experiments.compose import CONF, build, fitted, folder_of, key_of, own_folder
from experiments.files import as_json, write_durably
from experiments.grammar import Study, study_of
from experiments.identity import code_id
from experiments.jobs.dry_run import cost, describe, scripts
from experiments.jobs.launch import LaunchTerms, Task, freeze_launch
from experiments.jobs.local import Local, Pool
from experiments.jobs.packs import Calibration, PlannedPack, plan
from experiments.jobs.site import Slurm
from experiments.jobs.slurm import Silent, in_queue, site_array_size, submit
from experiments.jobs.standing import COMPLETE, by_equal_codes, kept_as_done, runs_in, standings
from experiments.jobs.survey import Waiting, counts, queued, summarise
from experiments.manifest import Entry, agreed, expand, freeze
from experiments.records.claims import Heartbeat, Taken, claim_all
from experiments.records.schema import StudyNote
from experiments.runner import explained
from experiments.tracking.settings import Tracking
from experiments.train import begin, stop
from ppo.refusals import UserError, choose, positive

Tasks = list[list[PlannedPack]]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line, checked."""

    name: str
    study: Study
    entries: list[Entry]
    records: Path
    cluster: Local | Slurm
    head: LaunchTerms
    retry: bool
    extend: bool
    kept: Mapping[str, str]  # by id, the runs that `parts` holds; see runs_in

    @property
    def folder(self) -> Path:
        return self.records / "studies" / self.name


def request_of(cfg: DictConfig, study_file: str, overrides: Sequence[str], own: Path | None) -> Request:
    """The command line as a Request, or one sentence about what does not fit."""
    study = study_of(cfg, own)
    name = study_file if cfg.name is None else str(cfg.name)
    typed = [word.partition("=")[2] for word in overrides if key_of(word) == "name"]
    if isinstance(cfg.name, int | float) and name not in typed:
        raise UserError(f"name={typed[-1]} is read as {name}; quote it twice: \"name='{typed[-1]}'\"")
    if not NAME.fullmatch(name):
        raise UserError(f"name={name}: a study's name has letters, digits, dots, dashes and underscores")
    if cfg.retry is not None:
        choose("retry", cfg.retry, ("failed",))
    checkpoint_seconds = fitted("checkpoint_seconds", cfg.checkpoint_seconds, float)
    positive("checkpoint_seconds", checkpoint_seconds, zero=True)
    site: dict[str, Any] = OmegaConf.to_container(cfg.cluster, resolve=True)  # type: ignore[assignment]
    choose("cluster.kind", site.get("kind"), ("local", "slurm"))
    if isinstance(site.get("time"), int):
        raise UserError(f'cluster.time={site["time"]}: YAML reads an unquoted time as a number; write "12:00:00"')
    site = {
        name: str(value) if name in ("mem", "gpus") and value is not None else value for name, value in site.items()
    }
    cluster = build(Local if site["kind"] == "local" else Slurm, site, "cluster.")
    parts = None if cfg.parts is None else folder_of("parts", cfg.parts).resolve()
    return Request(
        name=name,
        study=study,
        entries=expand(study, overrides, own),
        records=folder_of("records", cfg.records).resolve(),
        cluster=cluster,
        head={
            "cluster": cluster.kind,
            "tracking": asdict(build(Tracking, cfg.tracking, "tracking.")),
            "checkpoint_seconds": checkpoint_seconds,
            "overrides": list(overrides),
            "config_dir": [f"--config-dir={own}"] if own else [],
            "path": module_path(),
            "requeue": getattr(cluster, "requeue", False),
            "array_size": site_array_size(cluster, cfg.dry_run is True) if isinstance(cluster, Slurm) else None,
            "parts": None if parts is None else str(parts),
        },
        retry=cfg.retry is not None,
        extend=fitted("extend", cfg.extend, bool),
        kept=runs_in(parts, code_id()),
    )


def module_path() -> list[str]:
    """Where this command finds a user's modules, such as a task's: its workers run in another folder."""
    said = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [str(Path(folder).resolve()) for folder in ("", *filter(None, said))]


def launch(request: Request, console: Console) -> int:
    """Freeze, find what is missing, and start it; returns the exit code."""
    (claim,) = claim_all([request.folder / "claim"])
    if isinstance(claim, Taken):
        raise UserError(f"{request.name} is being launched by another command ({claim}); experiments.status shows it")
    try:
        with Heartbeat([claim.folder]):
            frozen, fresh = agreed(request.folder, request.entries, request.extend)
            entries, waiting = [*frozen, *fresh], queued_runs(request)
            tasks: Tasks = []
            if todo := missing(request, entries, waiting, console):
                say(console, f"{request.name}: {len(todo)} of {len(entries)} runs to train; packing them …")
                tasks = tasks_of(request.cluster, todo, console)  # refuses what cannot run, before anything is frozen
            freeze(request.folder, request.entries, request.extend)
            note: StudyNote = {
                "tables": request.study.tables,
                "figures": request.study.figures,
                "code_id": code_id(),
                "overrides": request.head["overrides"],
                "parts": request.head["parts"],
            }
            write_durably(request.folder / "study.json", as_json({**asdict(request.study), **note}))
            if todo:
                for entry in todo:  # a fresh start for those that failed
                    (request.records / "runs" / code_id() / entry.folder_name / "failed.json").unlink(missing_ok=True)
                if isinstance(request.cluster, Slurm):
                    return submit_packs(request, request.cluster, tasks, console)
                packs = [pack for packs in tasks for pack in packs]
                begun = freeze_launch(request.folder, ids_of(tasks), request.head)
                Pool(begun, packs, request.cluster.places, console).run()
            return report(request, entries, waiting, console)
    finally:
        claim.release()


def preview(request: Request, console: Console) -> int:
    """Print what `launch` would do, and do nothing."""
    frozen, fresh = agreed(request.folder, request.entries, request.extend)
    entries = [*frozen, *fresh]
    try:
        waiting = queued_runs(request)
    except Silent:
        waiting = {}
        say(console, "squeue does not answer: runs that wait in its queue are shown as still to train")
    todo = missing(request, entries, waiting, console)
    say(console, f"{request.name}: {len(todo)} of {len(entries)} runs to train; measuring this machine …")
    if todo:
        tasks, cluster = tasks_of(request.cluster, todo, console), request.cluster
        mirrored = request.head["tracking"]["mode"] != "none"
        places = min(len(tasks), cluster.places if isinstance(cluster, Local) else cluster.throttle or len(tasks))
        gpus = isinstance(cluster, Slurm) and bool(cluster.gres or cluster.gpus)
        texts = [describe(tasks), cost(tasks, places, mirrored, gpus, datetime.now())]
        if isinstance(cluster, Slurm) and (size := request.head["array_size"]) is not None:
            texts.insert(0, scripts(request.folder, len(tasks), cluster, size))
        print("\n\n".join(texts))
    return 0


def say(console: Console, line: str) -> None:
    """A line for people, not broken where a path or a command would break."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def queued_runs(request: Request) -> Waiting:
    """Runs that a cluster's queue holds already."""
    return in_queue(request.folder, code_id()) if isinstance(request.cluster, Slurm) else {}


def missing(request: Request, entries: Sequence[Entry], waiting: Waiting, console: Console) -> list[Entry]:
    """The runs to train now: not finished, not at work or queued elsewhere, and failed ones only if asked for."""
    stands = standings(entries, request.records, code_id())
    for line in by_equal_codes(kept_as_done(entries, stands, request.kept), code_id()):
        say(console, line)
    todo, left = [], Counter[str]()
    for entry, stand in zip(entries, stands, strict=True):
        if stand.state in COMPLETE:
            continue
        if entry.run_id in request.kept:
            left["in the parts already"] += 1
        elif entry.run_id in waiting or stand.state == "running":
            left["at work or queued already"] += 1
        elif stand.state == "failed" and not request.retry:
            left["failed before; retry=failed tries them again"] += 1
        else:
            todo.append(entry)
    for reason, count in left.items():
        say(console, f"{count} runs left alone: {reason}")
    return todo


def tasks_of(cluster: Local | Slurm, todo: Sequence[Entry], console: Console) -> Tasks:
    """Packs for these runs, longest first, and how many of them share a task."""
    packs = plan(todo, cluster.runs_per_pack, cluster.places, Calibration(lambda line: say(console, line)))
    return [packs[first : first + cluster.packs_per_task] for first in range(0, len(packs), cluster.packs_per_task)]


def ids_of(tasks: Sequence[Sequence[PlannedPack]]) -> list[Task]:
    return [[[entry.run_id for entry in pack.entries] for pack in packs] for packs in tasks]


def submit_packs(request: Request, cluster: Slurm, tasks: Tasks, console: Console) -> int:
    """Array jobs for what is missing; returns at once."""
    if len(tasks) > cluster.max_tasks:
        waiting = len(tasks) - cluster.max_tasks
        say(console, f"{waiting} tasks wait for a later launch (cluster.max_tasks={cluster.max_tasks})")
    frozen = freeze_launch(request.folder, ids_of(tasks[: cluster.max_tasks]), request.head)
    for part in submit(frozen, cluster):
        say(console, f"submitted {part.job}: {part.count} tasks, {part.name}")
    status = typed("experiments.status", request.name, "--records", request.records)
    say(console, f"logs in {frozen.folder}/logs; see {status}")
    return 0


def report(request: Request, entries: Sequence[Entry], waiting: Waiting, console: Console) -> int:
    """Say how the study stands now; returns 0 if it is complete."""
    stands = kept_as_done(entries, standings(entries, request.records, code_id()), request.kept)
    stands = [queued(stand, waiting.get(entry.run_id)) for entry, stand in zip(entries, stands, strict=True)]
    say(console, f"{request.name}: {summarise(counts(stands))}")
    for entry, stand in zip(entries, stands, strict=True):
        if stand.state == "failed":
            say(console, f"failed: {entry.folder_name}: {stand.note}")
    return 0 if all(stand.state in COMPLETE for stand in stands) else 1


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="launch")
def main(cfg: DictConfig) -> None:
    try:
        chosen = HydraConfig.get()
        if chosen.runtime.choices["study"] is None:
            raise UserError(f"say which study: study=…, one of {', '.join(names_in(CONF / 'study'))}")
        request = request_of(
            cfg, chosen.runtime.choices["study"], list(chosen.overrides.task), own_folder(sys.argv[1:])
        )
        with explained(request.records):
            code = preview(request, Console()) if fitted("dry_run", cfg.dry_run, bool) else launch(request, Console())
    except UserError as error:
        stop(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last checkpoints", file=sys.stderr)
        leave(128 + signal.SIGINT)
    leave(code)


def run() -> None:
    begin(main, "launch")


if __name__ == "__main__":
    run()
