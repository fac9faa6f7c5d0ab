"""Stop a study: python -m experiments.cancel NAME. What was trained stays; the study command goes on from there."""

import argparse
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from experiments.commands import command
from experiments.files import read_json
from experiments.jobs.launch import launches_of
from experiments.jobs.slurm import ask, noted_follow_up, queue, reconcile, surroundings
from experiments.jobs.survey import study_folder
from experiments.records.claims import live_owners
from ppo.refusals import UserError


def cancel(study: Path) -> list[str]:
    """Cancel the study's jobs in the queue and its launcher on this machine; says what was stopped, line by line."""
    said = []
    if any(launch.head()["cluster"] == "slurm" for launch in launches_of(study)):
        alive = {job for job, _ in queue()}
        jobs = [part.job for launch in launches_of(study) for part in reconcile(launch) if part.job in alive]
        last = ask("squeue", "--me", "--noheader", "--format=%A") or ""
        jobs += [job for job in map(noted_follow_up, launches_of(study)) if job in last.split()]
        for job in filter(None, reversed(jobs)):  # the last job first: it waits for the end of the others
            answer = subprocess.run(["scancel", job], capture_output=True, text=True, env=surroundings())
            said.append(f"job {job}: {answer.stderr.strip() or 'cancelled'}")
    for claim in study.glob("claim-*"):
        (who,) = live_owners([claim])
        owner = read_json(claim / "owner.json") if who is not None else {}
        if owner.get("host") == socket.gethostname():
            said.append(f"{who}: {asked_to_stop(owner['pid'])}")
        elif who is not None:
            said.append(f"{who} launches it; stop it there")
    return said


def asked_to_stop(pid: int) -> str:
    """Send SIGTERM; says what came of it."""
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError as error:  # another user's, or it has just ended
        return f"not stopped ({error.strerror})"
    return "asked to checkpoint and stop"


@command(UserError)
def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.cancel", description="Stop a study.")
    parser.add_argument("name", help="the study's name")
    parser.add_argument("--records", type=Path, default=Path("records"))
    options = parser.parse_args()
    print("\n".join(cancel(study_folder(options.name, options.records.resolve()))) or "nothing of it is running")
    return 0


if __name__ == "__main__":
    sys.exit(main())
