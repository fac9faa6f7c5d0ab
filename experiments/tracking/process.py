"""Many mirrors in one process: beside a pack until its trainer is gone, or once over records that lie there.

Beside a pack it is told what to do by one line of JSON on its standard input, and ended by the closing of it: by the
trainer's end, however it ends. It ignores the signals of its job, so what is left is written in peace; what cannot be
written now, `experiments.sync` writes later.
"""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from experiments.commands import leave
from experiments.records.claims import Claim, Heartbeat, Taken, claim_all
from experiments.tracking import mirror as wandb_side
from experiments.tracking.mirror import Mirror, Source, Target, forget_core
from experiments.tracking.settings import later

START_SECONDS = 1.0  # between looks for records that are not there yet
POLL_SECONDS = 10.0  # between looks for rows; a checkpoint brings them once a minute
RETRY_SECONDS = 60.0  # between attempts to reach a server that did not answer
KEPT_ENVIRONMENT = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_HTTP_PROXY", "WANDB_HTTPS_PROXY", "WANDB_CONFIG_DIR")

Say = Callable[[str], None]


class Mirrors:
    """Mirrors of many runs, each in one of these stages; one run's trouble leaves the others alone."""

    def __init__(self, folders: Sequence[Path], target: Target, say: Say):
        self.target, self.say = target, say
        self.unseen = list(folders)  # not there yet
        self.waiting: list[Mirror] = []  # to be opened, again perhaps
        self.opened: list[Mirror] = []
        self.ended = dict.fromkeys(("complete", "complete before", "so far", "left to another mirror", "FAILED"), 0)
        self.taken: dict[Mirror, Taken] = {}  # by another mirror, which may be ending
        self.claims: dict[Mirror, Claim] = {}
        self.heartbeat = Heartbeat([])
        self.retry_at = 0.0

    def keep_up(self, over: Callable[[float], bool], patience: float = 0.0) -> bool:
        """Mirror until all are complete or `over(seconds)`, which waits so long, says it is time; True if all went."""
        try:
            with self.heartbeat:
                self._keep_up(over, patience)
        finally:  # a full disk may have stopped it anywhere
            for claim in self.claims.values():
                claim.release()
        for taken in self.taken.values():
            self.say(str(taken))
        self.ended["left to another mirror"] = len(self.taken)
        return self.ended["FAILED"] == 0 and not (patience and self.taken)

    def _keep_up(self, over: Callable[[float], bool], patience: float) -> None:
        last = over(0.0)
        while True:
            self.look()
            deadline = time.monotonic() + patience  # for a mirror that is ending, of a trainer before ours
            while last and self.taken and time.monotonic() < deadline:
                time.sleep(0.2)
                self.look()
            if last or time.monotonic() >= self.retry_at:
                self.open()
            self.close([mirror for mirror in self.opened if last or not self.follow(mirror)], last)
            if last or not (self.unseen or self.taken or self.waiting or self.opened):
                break
            last = over(START_SECONDS if self.unseen else POLL_SECONDS)
        for mirror in self.waiting:
            self.end(mirror, "FAILED")

    def look(self) -> None:
        """Find the records that have appeared and that nobody has mirrored to their end."""
        before = [mirror for mirror in self.taken if not mirror.confirmed()["complete"]]
        self.ended["complete before"] += len(self.taken) - len(before)
        found, self.taken = [*before], {}
        for folder in [folder for folder in self.unseen if (folder / "provenance.json").exists()]:
            self.unseen.remove(folder)
            try:
                mirror = Mirror(Source(folder), self.target)
                if mirror.confirmed()["complete"]:
                    self.ended["complete before"] += 1
                else:
                    found.append(mirror)
            except Exception as error:
                self.say(f"{folder.name}: {sentence(error)}")
                self.ended["FAILED"] += 1
        for mirror, claim in zip(found, claim_all([mirror.claim_path for mirror in found]), strict=True):
            if isinstance(claim, Taken):
                self.taken[mirror] = claim
            elif mirror.confirmed()["complete"]:  # by whoever held the claim until now
                self.ended["complete before"] += 1
                claim.release()
            else:
                self.claims[mirror] = claim
                self.heartbeat.folders.append(claim.folder)
                self.waiting.append(mirror)

    def open(self) -> None:
        """Start the W&B runs; the first that cannot start postpones the others, which would wait as long."""
        for mirror in list(self.waiting):
            try:
                mirror.open()
            except Exception as error:
                self.say(f"{mirror.source.folder.name} cannot start: {sentence(error)}")
                mirror.drop()
                if not self.opened:
                    forget_core()
                self.retry_at = time.monotonic() + RETRY_SECONDS
                return
            self.waiting.remove(mirror)
            self.opened.append(mirror)

    def follow(self, mirror: Mirror) -> bool:
        """Send what is new; False once there is nothing more to come."""
        try:
            mirror.pump()
            return mirror.source.done() is None
        except Exception as error:
            self.say(f"{mirror.source.folder.name}: {sentence(error)}")
            return False

    def close(self, mirrors: Sequence[Mirror], last: bool) -> None:
        """Finish W&B runs side by side: each may wait for the server."""
        if not mirrors:
            return
        with ThreadPoolExecutor(len(mirrors)) as threads:
            errors = list(threads.map(closing_error, mirrors))
        for mirror, error in zip(mirrors, errors, strict=True):
            self.opened.remove(mirror)
            if error is None:
                self.end(mirror, "complete" if mirror.source.done() is not None else "so far")
                continue
            self.say(f"{mirror.source.folder.name}: {sentence(error)}")
            mirror.drop()
            self.retry_at = time.monotonic() + RETRY_SECONDS
            self.waiting.append(mirror)

    def end(self, mirror: Mirror, stage: str) -> None:
        self.ended[stage] += 1
        claim = self.claims.pop(mirror)
        self.heartbeat.folders.remove(claim.folder)
        claim.release()


def summarise(ended: Mapping[str, int]) -> str:
    """'2 complete, 1 so far'. FAILED are the mirrors, not their runs, and that must not be read from it."""
    words = {stage: stage.replace("FAILED", "not sent") for stage in ended}
    return ", ".join(f"{count} {words[stage]}" for stage, count in ended.items() if count)


def closing_error(mirror: Mirror) -> Exception | None:
    try:
        mirror.close()
        return None
    except Exception as error:
        return error


def sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def drop_settings_of_others() -> None:
    """Inside a job or a sweep, WANDB_RUN_ID and its like would rename, regroup or silence every run of the pack."""
    for name in [name for name in os.environ if name.startswith("WANDB_") and name not in KEPT_ENVIRONMENT]:
        del os.environ[name]


def first_line(descriptor: int) -> bytes:
    """Read without a buffer, so that `select` sees what follows."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(descriptor, 1)):
        line += byte
    return line


def main() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    os.nice(19)
    drop_settings_of_others()
    task = json.loads(first_line(0))
    target = Target(Path(task["records"]), task["mode"], task["project"], task["entity"])
    outputs = [os.dup(2)]  # the terminal

    def say(line: str) -> None:
        for descriptor in outputs:
            with suppress(OSError):  # the trainer's terminal may be gone
                os.write(descriptor, f"W&B mirror: {line}; {later(target.records)}\n".encode())

    def trainer_is_gone(seconds: float) -> bool:
        return bool(select.select([0], [], [], seconds)[0])

    try:
        log = target.records / "wandb" / "mirror.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)  # wandb's own words
        outputs.append(2)
        mirrors = Mirrors([Path(folder) for folder in task["folders"]], target, say)
        succeeded = mirrors.keep_up(trainer_is_gone, wandb_side.FINISH_SECONDS)
        if sum(mirrors.ended.values()) > mirrors.ended["complete before"]:
            print(f"W&B {target.mode}: {summarise(mirrors.ended)}", file=sys.stderr, flush=True)
    except Exception as error:
        say(f"stopped: {sentence(error)}")
        succeeded = False
    leave(0 if succeeded else 1)


if __name__ == "__main__":
    main()
