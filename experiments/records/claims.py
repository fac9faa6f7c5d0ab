"""Who is at work on what: folders claimed by exclusive mkdir, with the owner's name and a sign of life inside.

A process of this machine is looked up in its process table; one elsewhere shows that it lives by a heartbeat, judged by
the observer's own clock: clocks of two machines need not agree.
"""

import os
import shutil
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.files import as_json, read_json, write_durably
from ppo.refusals import UserError

HEARTBEAT_SECONDS = 5.0


class Taken(Exception):
    """Someone else is at work there: one sentence."""


def claim_all(paths: Sequence[Path]) -> "list[Claim | Taken]":
    """Claim what nobody alive works on; waits once for all signs of life."""
    held = [claims_on(path) for path in paths]
    newest = [numbered(path, numbers[0]) for path, numbers in zip(paths, held, strict=True) if numbers]
    alive = {folder: who for folder, who in zip(newest, live_owners(newest), strict=True) if who is not None}
    claimed: list[Claim | Taken] = []
    for path, numbers in zip(paths, held, strict=True):
        if numbers and (who := alive.get(numbered(path, numbers[0]))) is not None:
            claimed.append(Taken(f"{path.name} is in the hands of {who}"))
            continue
        try:
            claimed.append(Claim(path, numbers))
        except Taken as taken:
            claimed.append(taken)
        except OSError:
            for claim in claimed:
                if isinstance(claim, Claim):
                    claim.release()
            raise
    return claimed


class Claim:
    """The right to work on something, as the folder `<path>-<n>`; it follows the claims of the dead, `held`.

    Raises Taken if someone else was faster.
    """

    def __init__(self, path: Path, held: Sequence[int]):
        self.folder = numbered(path, max(held, default=0) + 1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir()
        except FileExistsError as error:
            raise Taken(f"{self.folder} was claimed by someone else just now") from error
        if (later := max(claims_on(path))) > max(held, default=0) + 1:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise Taken(f"{numbered(path, later)} was claimed by someone else meanwhile")
        try:
            write_durably(self.folder / "owner.json", as_json(owner()))
        except OSError:
            self.release()
            raise
        for number in held:
            shutil.rmtree(numbered(path, number), ignore_errors=True)

    def release(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}-{number}")


def claims_on(path: Path) -> list[int]:
    """Numbers of the claims, highest first."""
    found = (claim.name.rpartition("-")[2] for claim in path.parent.glob(f"{path.name}-*"))
    return sorted((int(number) for number in found if number.isdecimal()), reverse=True)


class Heartbeat:
    """A thread that shows, in every folder, that its process lives."""

    def __init__(self, folders: Sequence[Path]):
        self.folders = list(folders)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _beat(self) -> None:
        beat = 0
        while not self.stop.wait(HEARTBEAT_SECONDS if beat else 0):
            beat += 1
            for folder in self.folders:
                try:
                    (folder / "heartbeat").write_text(f"{beat}\n")
                except OSError:
                    pass  # a full disk stops training by its own message, not by this thread's


def live_owners(folders: Sequence[Path]) -> list[str | None]:
    """For each claimed folder, who is at work there ('process 12 on node7'), or None. Waits once, not per folder."""
    found: list[str | None] = [None] * len(folders)
    silent: dict[int, tuple[str, str]] = {}  # owners on other machines: index → (name, heartbeat when first seen)
    deadline = time.monotonic() + 2.0
    for index, folder in enumerate(folders):
        who = wait_for_owner(folder / "owner.json", deadline - time.monotonic())
        if who is None:
            continue
        name = f"process {who['pid']} on {who['host']}"
        if who["host"] == socket.gethostname() and who["boot_id"] == boot_id():
            found[index] = name if process_start(who["pid"]) == who["process_start"] else None
        else:
            silent[index] = (name, heartbeat(folder))
    deadline = time.monotonic() + 2.5 * HEARTBEAT_SECONDS
    while silent and time.monotonic() < deadline:
        time.sleep(0.5)
        for index, (name, before) in list(silent.items()):
            if heartbeat(folders[index]) != before:
                found[index] = name
                del silent[index]
    return found


def owner() -> dict[str, Any]:
    """This process, as `owner.json` names it."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "boot_id": boot_id(),
        "process_start": process_start(os.getpid()),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
    }


def read_owner(path: Path) -> dict[str, Any]:
    """Who claimed a folder; UserError where its file does not say."""
    found = read_json(path)
    kinds = {"host": str, "pid": int, "boot_id": str, "process_start": str | None}
    if not isinstance(found, dict) or any(not isinstance(found.get(name, ...), kind) for name, kind in kinds.items()):
        raise UserError(f"{path} names no owner")
    return found


def boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def process_start(pid: int) -> str | None:
    """When a process of this machine started, in the kernel's clock ticks; None if it is gone (or a zombie)."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if after_name[0] == "Z" else after_name[19]


def wait_for_owner(path: Path, seconds: float = 2.0) -> dict[str, Any] | None:
    """A claim is a folder first and a name a moment later; and it may be taken away at any moment.

    A name that cannot be read is nobody's: whoever is at work after all gives way to the next attempt.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return read_owner(path)
        except FileNotFoundError:
            if time.monotonic() > deadline or not path.parent.exists():
                return None
        except UserError:
            return None
        time.sleep(0.05)


def heartbeat(folder: Path) -> str:
    try:
        return (folder / "heartbeat").read_text()
    except FileNotFoundError:
        return ""
