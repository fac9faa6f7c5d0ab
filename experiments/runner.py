"""Train runs as packs: find what is missing, claim it, go on from where it stood, record, finish.

runs ──skip what is done or alive elsewhere──▶ groups at one iteration ──▶ a pack each ──▶ records
"""

import ctypes
import errno
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from experiments.commands import FULL
from experiments.compose import NamedRun
from experiments.identity import run_id
from experiments.records import checkpoint
from experiments.records.checkpoint import Checkpoint, Refused
from experiments.records.claims import Heartbeat, live_owners
from experiments.records.record import Attempt, Fenced, Record, Start
from experiments.records.schema import Done
from ppo.environments import TaskError
from ppo.pack import NotFinite, Pack
from ppo.refusals import UserError
from ppo.train import Iteration, train

NOT_FINITE = {"not_finite": NotFinite("", 0)._asdict()}
"""Where a state has this part, it is laid out so."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

Say = Callable[[str], None]


class Interrupted(BaseException):
    """A signal asked for a checkpoint now. Not an Exception, so that nothing on the way swallows it."""

    def __init__(self, signum: int):
        self.signum = signum


class Interrupts:
    """Turns signals into `Interrupted`: at once, or after a boundary's writes if one falls into them."""

    def __init__(self) -> None:
        self.holding, self.pending = False, 0

    def __enter__(self) -> "Interrupts":
        self.previous = {signum: signal.signal(signum, self._handle) for signum in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        first, self.pending = not self.pending, self.pending or signum
        if first and not self.holding:  # SLURM signals the worker and its task, which passes it on: one is enough
            raise Interrupted(signum)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, a signal waits."""
        self.holding = True
        try:
            yield
        finally:
            self.holding = False
        if self.pending:
            raise Interrupted(self.pending)


@dataclass
class Watcher:
    """What is told while a pack trains; every hook may be left alone."""

    say: Say = lambda line: None
    started: Callable[[Pack, Mapping[int, list[float]]], None] = lambda pack, returns: None  # returns by row, so far
    moved: Callable[[Pack, Iteration], None] = lambda pack, iteration: None
    finished: Callable[[Record, Done], None] = lambda record, done: None
    prepared: Callable[[], None] = lambda: None  # nothing was refused, and every run's folder is there


@dataclass
class Outcome:
    """What became of the runs asked for."""

    done: list[Done] = field(default_factory=list)  # trained here and now
    already: list[Done] = field(default_factory=list)  # finished before
    elsewhere: list[str] = field(default_factory=list)  # another process has them


def train_runs(runs: Sequence[NamedRun], records: Path, checkpoint_seconds: float, watcher: Watcher) -> Outcome:
    """Train every run that is missing; all must fit one pack.

    Raises Interrupted after a signal, its last boundary written; UserError for what the user can mend.
    """
    tune_allocator()
    torch.set_num_threads(1)  # packs run side by side, one core each
    pattern = Pack([runs[0].config]).state_dict(0)  # what cannot run here is refused before anything is written
    outcome = Outcome()
    todo: list[Record] = []
    with explained(records):
        for run in runs:
            record = Record(records, run)
            record.prepare()
            if (done := record.done()) is not None:
                outcome.already.append(done)
            else:
                todo.append(record)
        watcher.prepared()
        seen = {record.id: max(record.attempts(), default=0) for record in todo}
        begun = [record for record in todo if seen[record.id]]
        newest = [record.attempt_folder(seen[record.id]) for record in begun]
        for record, who in zip(begun, live_owners(newest), strict=True):
            if who is not None:
                outcome.elsewhere.append(who)
                watcher.say(f"{record.folder.name} is being trained by {who}; left alone")
                todo.remove(record)
        for group in groups(todo, pattern, watcher.say):
            train_group(group, seen, checkpoint_seconds, watcher, outcome)
    return outcome


def groups(
    records: Sequence[Record], pattern: Mapping[str, Any], say: Say
) -> list[list[tuple[Record, Start, Checkpoint | None]]]:
    """Records with their starts, split where they do not stand at one iteration.

    A kill between two members' checkpoints leaves them one generation apart; the older one is there for both.
    """
    usable = {record.id: usable_starts(record, pattern, say) for record in records}
    begun = [record for record in records if len(usable[record.id]) > 1]
    standing = [{start.iteration for start, _ in usable[record.id]} for record in begun]
    common = set.intersection(*standing) - {0} if begun else set()
    chosen: dict[int, list[tuple[Record, Start, Checkpoint | None]]] = {}
    for record in records:
        starts = usable[record.id]
        wanted = max(common) if common and record in begun else starts[0][0].iteration
        start, content = next(pair for pair in starts if pair[0].iteration == wanted)
        chosen.setdefault(start.iteration, []).append((record, start, content))
    return list(chosen.values())


def usable_starts(record: Record, pattern: Mapping[str, Any], say: Say) -> list[tuple[Start, Checkpoint | None]]:
    """The two best checkpoints that are whole and ours, then the beginning; what is refused is said. `pattern` is a
    state as it should be laid out."""
    found: list[tuple[Start, Checkpoint | None]] = []
    for start in record.starts():
        if start.folder is None:
            found.append((start, None))
        elif len(found) < 2 and start.iteration not in {s.iteration for s, _ in found}:
            try:
                content = record.load(start)
                if reason := checkpoint.misfit(content["state"], {**pattern, **NOT_FINITE}):
                    raise Refused(f"{checkpoint.path_of(start.folder, start.iteration)} does not fit its run: {reason}")
                if content["state"]["iteration"] != start.iteration:
                    raise Refused(f"{start.folder} holds another iteration's checkpoint as number {start.iteration}")
                found.append((start, content))
            except Refused as refused:
                say(f"{refused}; an older one is used, or the beginning")
    return found


def train_group(
    group: Sequence[tuple[Record, Start, Checkpoint | None]],
    seen: Mapping[str, int],
    checkpoint_seconds: float,
    watcher: Watcher,
    outcome: Outcome,
) -> None:
    """One pack, from its members' common iteration to the end; `seen`: each run's newest attempt when it was judged."""
    pack = Pack([record.run.config for record, _, _ in group])
    by_id = {record.id: (record, start, content) for record, start, content in group}
    members = [by_id[run_id(config)] for config in pack.runs]
    states = [content["state"] for _, _, content in members if content is not None]
    if states:
        pack.load_state_dicts(states)
    with Interrupts() as interrupts, ExitStack() as open_files:
        attempts: dict[int, Attempt] = {}
        for row, (record, start, content) in enumerate(members):
            with fenced_off(row, attempts, watcher, outcome):
                lengths = None if content is None else content["lengths"]
                attempts[row] = Attempt(record, start, lengths, after=seen[record.id])
                open_files.callback(attempts[row].close)
        if not attempts:
            return
        open_files.enter_context(Heartbeat([attempt.folder for attempt in attempts.values()]))
        watcher.started(pack, {row: attempt.returns() for row, attempt in attempts.items()})
        try:
            record_training(pack, attempts, interrupts, checkpoint_seconds, watcher, outcome)
        except TaskError:
            with interrupts.held():
                checkpoint_all(attempts, watcher, outcome)
            raise
        except Interrupted:
            for signum in SIGNALS:
                signal.signal(signum, signal.SIG_IGN)  # the checkpoint below is short; a second Ctrl-C must not tear it
            checkpoint_all(attempts, watcher, outcome)
            raise


def record_training(
    pack: Pack,
    attempts: dict[int, Attempt],
    interrupts: Interrupts,
    checkpoint_seconds: float,
    watcher: Watcher,
    outcome: Outcome,
) -> None:
    """Train, write every iteration into the members' attempts, and finish each member at its end."""
    if pack.iteration:
        with interrupts.held():
            hold(pack, attempts)
            settle(pack, attempts, watcher, outcome)  # a kill may have come just before done.json
    last_checkpoint = time.monotonic()
    for iteration in train(pack) if attempts else ():
        with interrupts.held():
            for row, attempt in attempts.items():
                attempt.append(iteration, row, len(pack))
            hold(pack, attempts)
            settle(pack, attempts, watcher, outcome)
            if time.monotonic() - last_checkpoint >= checkpoint_seconds:
                checkpoint_all(attempts, watcher, outcome)
                last_checkpoint = time.monotonic()
        watcher.moved(pack, iteration)
        if not attempts:
            break


def hold(pack: Pack, attempts: dict[int, Attempt]) -> None:
    for row, attempt in attempts.items():
        attempt.hold(pack.iteration, pack.state_dict(row))


def settle(pack: Pack, attempts: dict[int, Attempt], watcher: Watcher, outcome: Outcome) -> None:
    """Finish the members that reached their budget or ended before it; the others go on."""
    for row, attempt in list(attempts.items()):
        if pack.iteration == pack.iterations or not pack.alive[row]:
            with fenced_off(row, attempts, watcher, outcome):
                done = attempt.finish(bool(pack.alive[row]), pack.env_steps, pack.not_finite[row])
                del attempts[row]
                outcome.done.append(done)
                watcher.finished(attempt.record, done)


def checkpoint_all(attempts: dict[int, Attempt], watcher: Watcher, outcome: Outcome) -> None:
    """Write every member's boundary."""
    for row, attempt in list(attempts.items()):
        with fenced_off(row, attempts, watcher, outcome):
            attempt.checkpoint()


@contextmanager
def fenced_off(row: int, attempts: dict[int, Attempt], watcher: Watcher, outcome: Outcome) -> Iterator[None]:
    """A member that someone else has claimed leaves; its mates go on, and the last one takes the pack with it."""
    try:
        yield
    except Fenced as fenced:
        attempts.pop(row, None)  # not there yet if it was claimed before we could
        watcher.say(str(fenced))
        outcome.elsewhere.append(str(fenced))


class DiskError(UserError):
    """No mistake in what was asked: a disk, or the network before it, that may be well again at the next try."""


@contextmanager
def explained(records: Path) -> Iterator[None]:
    """What the disk refuses, in one sentence."""
    try:
        yield
    except OSError as error:
        where = error.filename or records
        if error.errno in FULL:
            raise UserError(
                f"{FULL[error.errno]} ({where}); training stopped, the last checkpoint is intact. "
                "Make room and give the same command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"{where} cannot be written ({error.strerror}); choose another with records=") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"{where} is in the way ({error.strerror}); choose another folder with records=") from error
        if error.errno is None:  # a library's own, none of the system
            raise
        raise DiskError(
            f"{where}: {error.strerror}; training stopped, no checkpoint written before was touched. "
            "Give the same command again"
        ) from error


def tune_allocator() -> None:
    """Keep freed memory in the process: glibc gives large blocks back and faults them in anew, a third of an update."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, 1 << 30)
