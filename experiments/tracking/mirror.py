"""Records shown in a tracker, such as W&B: every row once, whoever is killed when.

    record ──rows that a checkpoint covers──▶ sink

The record is the truth and knows nothing of this file. Where to go on is asked of the tracker itself. A cursor on disk
keeps what was confirmed, so that a run that was sent to its end is not touched again.

A tracker is a Target, which gives each run a Sink: `experiments.tracking.wandb` is one. Used by
`experiments.tracking.process` beside a pack, and by `experiments.sync` later.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from experiments.files import as_json, read_json, write_durably
from experiments.records.claims import Claim, Heartbeat, Taken, claim_all
from experiments.tracking.reading import Ending, Source

START_SECONDS = 1.0  # between looks for records that are not there yet
POLL_SECONDS = 10.0  # between looks for rows; a checkpoint brings them once a minute
RETRY_SECONDS = 60.0  # between attempts to reach a server that did not answer

Say = Callable[[str], None]


class Sink(Protocol):
    """One run in a tracker. What is raised means: not now; the sink is dropped, and opened again later."""

    def open(self, confirmed: int) -> int:
        """Start or continue. The last iteration that the tracker holds; `confirmed` is what an earlier sink had closed
        with."""

    def log(self, row: Mapping[str, float]) -> None:
        """Take the next iteration's values, by name; `iteration` and `env_steps` are whole numbers."""

    def close(self, ending: Ending | None) -> None:
        """Finish for now; None where more will come. Raise unless the tracker holds all that was logged."""

    def drop(self) -> None:
        """Let go after a failure, opened or not; raises nothing."""


@dataclass(frozen=True)
class Target:
    """A tracker, and the files that say what it holds."""

    folder: Path  # of cursors and claims
    name: str  # that tells them from those of another way to the same tracker
    place: str  # what a cursor is good for: another place has rows of its own
    sink: Callable[[Source], Sink]
    forget: Callable[[], None] = lambda: None  # a tracker that could not start, before it is tried again


class Mirror:
    """One run on its way: open, pump, close. Whoever calls must hold the claim on `claim_path`."""

    def __init__(self, source: Source, target: Target):
        self.source, self.place, self.sink = source, target.place, target.sink(source)
        self.cursor = target.folder / "cursors" / f"{source.id}-{target.name}.json"
        self.claim_path = target.folder / "claims" / f"{source.id}-{target.name}"
        self.sent = 0  # the last iteration handed over

    def confirmed(self) -> dict[str, Any]:
        """The cursor, if it is this target's."""
        found: dict[str, Any] = read_json(self.cursor) if self.cursor.exists() else {}
        return found if found.get("place") == self.place else {"iteration": 0, "complete": False}

    def open(self) -> None:
        """Start or continue, from what the tracker holds of the run."""
        self.source.reading = None
        self.sent = self.sink.open(self.confirmed()["iteration"])

    def pump(self) -> None:
        """Hand over the rows that have become final."""
        for row in self.source.rows(self.sent):
            self.sent = int(row["iteration"])
            self.sink.log(row | {"iteration": self.sent, "env_steps": int(row["env_steps"])})

    def close(self) -> None:
        """Hand over the rest, with the ending if the run is done, and confirm what the tracker holds."""
        ending = self.source.ending()  # before its rows: a run that is done meanwhile is closed the next time
        self.pump()
        self.sink.close(ending)
        self.cursor.parent.mkdir(parents=True, exist_ok=True)
        confirmed = {"place": self.place, "iteration": self.sent, "complete": ending is not None}
        write_durably(self.cursor, as_json(confirmed))


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
            self.close([mirror for mirror in list(self.opened) if last or self.follow(mirror)])
            if last or not (self.unseen or self.taken or self.waiting or self.opened):
                break
            last = over(START_SECONDS if self.unseen else POLL_SECONDS)
        for mirror in self.waiting:
            self.end(mirror, "FAILED")

    def look(self) -> None:
        """Find the records that have appeared and that no mirror has sent to their end."""
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
        """Open what waits; the first that cannot start postpones the others, which would wait as long."""
        for mirror in list(self.waiting):
            try:
                mirror.open()
            except Exception as error:
                self.say(f"{mirror.source.folder.name} cannot start: {sentence(error)}")
                mirror.sink.drop()
                if not self.opened:
                    self.target.forget()
                self.retry_at = time.monotonic() + RETRY_SECONDS
                return
            self.waiting.remove(mirror)
            self.opened.append(mirror)

    def follow(self, mirror: Mirror) -> bool:
        """Send what is new; True once there is nothing more to come."""
        try:
            mirror.pump()
            return mirror.source.done() is not None
        except Exception as error:  # part of a row may have arrived: only the tracker knows
            self.postpone(mirror, error)
            return False

    def close(self, mirrors: Sequence[Mirror]) -> None:
        """Close side by side: each may wait for a server."""
        if not mirrors:
            return
        with ThreadPoolExecutor(len(mirrors)) as threads:
            errors = list(threads.map(closing_error, mirrors))
        for mirror, error in zip(mirrors, errors, strict=True):
            if error is not None:
                self.postpone(mirror, error)
                continue
            self.opened.remove(mirror)
            self.end(mirror, "complete" if mirror.source.done() is not None else "so far")

    def postpone(self, mirror: Mirror, error: Exception) -> None:
        """Let go of a sink that failed, to open it again later and go on from what the tracker holds."""
        self.say(f"{mirror.source.folder.name}: {sentence(error)}")
        mirror.sink.drop()
        self.opened.remove(mirror)
        self.waiting.append(mirror)
        self.retry_at = time.monotonic() + RETRY_SECONDS

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
