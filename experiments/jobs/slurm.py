"""SLURM through text: job scripts as return values of pure functions, and the four commands that speak to a cluster.

A launch becomes one array job or several, one index per task. The intent, a unique job name, is on disk before sbatch
is called, so that a launcher that dies between sbatch's answer and its note is reconciled by asking the queue.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from experiments.compose import key_of
from experiments.files import as_json, read_json, write_durably
from experiments.jobs.launch import Launch, launches_of
from experiments.jobs.site import ALLOWED, Slurm
from ppo.refusals import UserError

WHERE_SLURM_IS = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
OF_SLURM = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SCANCEL_", "SCONTROL_")
"""Variables with which the surroundings could change what its commands do: none of them reaches one."""

ANSWER_SECONDS = 60  # squeue and scontrol


@dataclass(frozen=True)
class Part:
    """One array job of a launch: tasks offset … offset + count − 1 as indices 0 … count − 1."""

    name: str  # unique, to be found again in the queue
    offset: int
    count: int
    job: str | None = None  # SLURM's id, once it is known


def array_script(launch: Launch, part: Part, options: Slurm, code: str, python: str) -> str:
    """The sbatch script of one array job."""
    throttle = f"%{options.throttle}" if options.throttle else ""
    index = f"$((SLURM_ARRAY_TASK_ID + {part.offset}))" if part.offset else "$SLURM_ARRAY_TASK_ID"
    directives = {
        "job-name": part.name,
        "array": f"0-{part.count - 1}{throttle}",
        "output": in_pattern(launch.folder / "logs" / f"{part.offset}+") + "%a.log",
        "signal": f"USR1@{options.signal_seconds}",  # without B:, so that the task and not its shell gets it
    }
    command = f'{shlex.quote(python)} -m experiments.jobs.task {shlex.quote(str(launch.folder))} "{index}"'
    return script(options, directives, code, command)


def follow_up_script(launch: Launch, jobs: Sequence[str], options: Slurm, code: str, python: str) -> str:
    """The script of the last job: give the study command again, one turn fewer to come, and report what there is."""
    head = launch.head()
    places = {"records": launch.records, "parts": head["parts"]}  # the job begins in another folder
    said = [word for word in head["overrides"] if key_of(word) not in ("cluster.follow_up", *places)]
    absolute = [f"{key}='{place}'" for key, place in places.items() if place is not None]
    words = [*head["config_dir"], *said, f"cluster.follow_up={options.follow_up - 1}", *absolute]
    directives = {
        "job-name": follow_up_name(launch),
        "dependency": "afterany:" + ":".join(jobs),
        "output": in_pattern(launch.folder / "logs" / "follow-up.log"),
    }
    named = shlex.join([launch.study.name, "--records", str(launch.records), "--missing", "mark"])
    path = os.pathsep.join(head.get("path", []))  # of a user's modules
    again = f"{shlex.quote(python)} -m experiments.study {shlex.join(words)}"
    again = f"env {shlex.quote(f'PYTHONPATH={path}')} {again}" if path else again
    report = f"{shlex.quote(python)} -m analysis.report {named}"
    plain = replace(options, gres=None, gpus=None, cpus_per_task=1)
    return script(plain, directives, code, again, report)


def follow_up_name(launch: Launch) -> str:
    return f"ppo-{launch.study.name}-{launch.folder.name}-follow-up"


def script(options: Slurm, directives: dict[str, str], code: str, *commands: str) -> str:
    """A job script: directives, the site's own lines, commands under srun, of which the last one's exit code counts."""
    values = {name: getattr(options, name) for name in ALLOWED}
    directives = {
        **directives,
        **{name: str(value) for name, value in values.items() if value is not None},
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(options.cpus_per_task),
        "chdir": in_directive(Path(code)),  # for the lines of setup
        "open-mode": "append",
    }
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH --{name}={value}" for name, value in directives.items()),
        "#SBATCH --requeue" if options.requeue else "#SBATCH --no-requeue",
        *options.setup,
        f"cd {shlex.quote(code)} || exit",  # where --chdir fails, slurmd goes on in /tmp, with other code
        *(f'srun --cpus-per-task="$SLURM_CPUS_PER_TASK" {command}' for command in commands),
    ]
    lines[-1] = f"exec {lines[-1]}"  # so that it gets the job's signals
    return "\n".join(lines) + "\n"


def in_directive(path: Path) -> str:
    """A path as sbatch reads it in a directive: what would end, quote or comment it out is refused."""
    if re.search(r"[\s\x00-\x1f\x7f'\"\\#]", str(path)):
        raise UserError(
            f"{str(path)!r} has a blank, a quote, a backslash, a # or a control character, which sbatch cannot be "
            "told; choose another records="
        )
    return str(path)


def in_pattern(path: Path) -> str:
    """A path in the name of an output file, where a percent sign means something."""
    return in_directive(path).replace("%", "%%")


def parts_of(study: str, launch: str, count: int, array_size: int) -> list[Part]:
    """Array jobs for `count` tasks, none larger than the site allows, each under a name never used before."""
    offsets = range(0, count, array_size)
    stem = f"ppo-{study}-{launch}"
    return [Part(f"{stem}-{o}-{uuid.uuid4().hex[:8]}", o, min(array_size, count - o)) for o in offsets]


def site_array_size(options: Slurm, dry_run: bool) -> int:
    """The largest array this site takes: MaxArraySize as scontrol says it, else the configured one.

    Raises UserError where there is no SLURM and one is needed.
    """
    if shutil.which("sbatch") is None and not dry_run:
        raise UserError("sbatch is not here; launch from a login node of the cluster, or use cluster=local")
    answer = ask("scontrol", "show", "config")
    said = re.search(r"^MaxArraySize\s*=\s*([0-9]+)", answer or "", re.MULTILINE)
    if said and int(said[1]) == 0:
        raise UserError("this site takes no job arrays (scontrol show config: MaxArraySize = 0); use cluster=local")
    if said is None and dry_run:
        print(f"scontrol does not say MaxArraySize; cluster.max_array_size={options.max_array_size} stands in")
    return int(said[1]) if said else options.max_array_size


def submit(launch: Launch, options: Slurm) -> list[Part]:
    """Give a frozen launch to SLURM; returns its array jobs with their ids."""
    head = launch.head()
    assert head["array_size"] is not None  # of a launch for SLURM
    parts = parts_of(launch.study.name, launch.folder.name, len(launch.tasks()), head["array_size"])
    scripts = [array_script(launch, part, options, head["code"], sys.executable) for part in parts]
    note(launch, parts)
    for number, text in enumerate(scripts):
        part = parts[number]
        path = launch.folder / f"array-{part.offset}.sh"
        write_durably(path, text.encode())
        parts[number] = replace(part, job=sbatch(path, part.name, parts[:number]))
        note(launch, parts)
    if options.follow_up:
        path = launch.folder / "follow-up.sh"
        jobs = [part.job for part in parts if part.job]
        write_durably(path, follow_up_script(launch, jobs, options, head["code"], sys.executable).encode())
        note(launch, parts, follow_up=sbatch(path, follow_up_name(launch), parts))
    return parts


def sbatch(path: Path, name: str, before: Sequence[Part]) -> str:
    """The id of the job submitted, whose name is in the script; sbatch's own words if it refuses."""
    answer = subprocess.run(
        ["sbatch", "--parsable", str(path)], capture_output=True, text=True, errors="replace", env=surroundings()
    )
    done = f"; submitted before it: {', '.join(part.job for part in before if part.job)}" if before else ""
    if answer.returncode != 0:
        words = " ".join(answer.stderr.split())
        unused = ", ".join(sorted(variable for variable in os.environ if variable.startswith("SBATCH_")))
        hint = f" ({unused} of the environment is not used: cluster.* says what is asked for)" if unused else ""
        raise UserError(f"sbatch refused {path}: {words}{hint}{done}. Give the same command again when that is mended")
    if job := re.fullmatch(r"([1-9][0-9]*)(;[^\s;]+)?\n?", answer.stdout):
        return job[1]
    if found := in_queue_as(name):
        return found
    raise UserError(
        f"sbatch took {path}, but its answer {answer.stdout.strip()!r} is no job id, and squeue shows no job {name}"
        f"{done}. Give the same command again: it looks for that job before it submits anything"
    )


def surroundings() -> dict[str, str]:
    """The environment of SLURM's commands, and of jobs: of its own variables only those that say where it is."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in WHERE_SLURM_IS or not name.startswith(OF_SLURM)
    }  # fmt: skip


def note(launch: Launch, parts: Sequence[Part], follow_up: str | None = None) -> None:
    jobs = {"parts": [asdict(part) for part in parts], "follow_up": follow_up or noted_follow_up(launch)}
    write_durably(launch.folder / "jobs.json", as_json(jobs))


def noted_follow_up(launch: Launch) -> str | None:
    """The id of a launch's last job, if it has one."""
    path = launch.folder / "jobs.json"
    return read_json(path)["follow_up"] if path.exists() else None


def noted(launch: Launch) -> list[Part]:
    path = launch.folder / "jobs.json"
    return [Part(**part) for part in read_json(path)["parts"]] if path.exists() else []


@dataclass(frozen=True)
class Queued:
    """An array index in the queue, as squeue shows it."""

    state: str  # PENDING, RUNNING, …
    node: str
    reason: str


class Silent(UserError):
    """squeue does not answer."""


def queue() -> dict[tuple[str, int], Queued]:
    """All array tasks of mine that are pending or running: (job id, index) → what squeue says.

    Raises Silent where squeue cannot be asked: guessing could train a run twice.
    """
    found = {}
    for line in of_squeue("--me", "--noheader", "--array", "--format=%F|%K|%T|%N|%r|%j"):
        if not re.fullmatch(r"[0-9]+(\|[^|]*){4}\|.*", line):
            raise Silent(f"squeue answers {line!r}, which is not understood; what is queued is unknown")
        job, index, state, node, reason, _ = line.split("|", 5)
        if index.isdecimal():
            found[job, int(index)] = Queued(state, node, reason)
    return found


def in_queue_as(name: str) -> str | None:
    """The id of the job of this name, if the queue has one. Raises Silent where squeue cannot be asked."""
    ids = {line for line in of_squeue("--noheader", "--format=%F", f"--name={name}") if re.fullmatch("[0-9]+", line)}
    return ids.pop() if len(ids) == 1 else None


def of_squeue(*options: str) -> list[str]:
    """Lines of squeue's answer."""
    answer = ask("squeue", *options)
    if answer is None:
        raise Silent("squeue does not answer; what is queued is unknown, so nothing was done")
    return answer.splitlines()


def reconcile(launch: Launch) -> list[Part]:
    """The launch's array jobs; one whose id was never noted is looked up by its name."""
    parts = noted(launch)
    for number, part in enumerate(parts):
        if part.job is None and (job := in_queue_as(part.name)):
            parts[number] = replace(part, job=job)
            with suppress(OSError):  # a full disk, or another user's records: the next look asks again
                note(launch, parts)
    return parts


def in_queue(study: Path, code_id: str) -> dict[str, tuple[str, Queued]]:
    """Runs of a study that a job will train or trains with this very code: run id → (job_index, what squeue says)."""
    waiting = queue()
    found = {}
    for launch in launches_of(study):
        head = launch.head()
        if (head["cluster"], head["code_id"]) != ("slurm", code_id):
            continue
        tasks = launch.tasks()
        for part in reconcile(launch):
            for local in range(part.count):
                if part.job and (seen := waiting.get((part.job, local))) is not None:
                    for run in (run for pack in tasks[part.offset + local] for run in pack):
                        found[run] = (f"{part.job}_{local}", seen)
    return found


def ask(*command: str) -> str | None:
    """A command's answer; None if it is not there, fails or hangs."""
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS, env=surroundings()
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None
