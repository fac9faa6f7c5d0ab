"""One pack of a study in one process: python -m experiments.jobs.worker LAUNCH RUN_ID...

Reads the frozen launch and manifest, composes nothing, and trains. Its exit code says what happened: 0 all is done, 75
somebody else has a run, 2 a mistake in what was asked, 128 + a signal's number interrupted; anything else is a crash.
"""

import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from experiments.jobs.launch import Launch, check_code
from experiments.jobs.lifeline import follow_parent
from experiments.jobs.task import ELSEWHERE, MISTAKE
from experiments.records.record import Record, why
from experiments.records.schema import Done
from experiments.runner import DiskError, Interrupted, Watcher, train_runs
from experiments.tracking.settings import MirrorProcess, Tracking
from ppo.environments import TaskError
from ppo.pack import Pack
from ppo.refusals import UserError
from ppo.train import Iteration

SAY_SECONDS = 60.0  # between lines of progress


class Lines(Watcher):
    """Progress for a log file."""

    def __init__(self) -> None:
        super().__init__(say, self._started, self._moved, self._finished)

    def _started(self, pack: Pack, _returns: Mapping[int, list[float]]) -> None:
        self.began = self.last = time.monotonic()
        self.first = pack.iteration
        say(f"{pack.runs[0].env.id}: a pack of {len(pack)} from iteration {pack.iteration} of {pack.iterations}")

    def _moved(self, pack: Pack, iteration: Iteration) -> None:
        if time.monotonic() - self.last > SAY_SECONDS:
            self.last = time.monotonic()
            steps = (iteration.number - self.first) * pack.profile.steps * len(pack)
            rate = steps / (self.last - self.began)
            say(f"iteration {iteration.number} of {pack.iterations}, {rate:,.0f} env steps/s")

    def _finished(self, record: Record, done: Done) -> None:
        say(f"{done['status']}: {record.folder.name}, score {done['score']}{why(done)}")


def say(line: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", flush=True)


def work(launch: Launch, ids: list[str]) -> int:
    """Train these runs; returns the exit code."""
    head = launch.head()
    sys.path[1:1] = head.get("path", [])  # after the launch's own code: a task may be in a user's module
    check_code(head)
    runs = [entry.run for entry in launch.entries(ids)]
    folders = [Record(launch.records, run).folder for run in runs]
    mirror = MirrorProcess(Tracking(**head["tracking"]), launch.records, folders)
    lines = Lines()
    lines.prepared = mirror.start
    outcome = train_runs(runs, launch.records, head["checkpoint_seconds"], lines)
    if trouble := mirror.finish():
        say(trouble)
    return ELSEWHERE if outcome.elsewhere else 0


def main() -> None:
    follow_parent()
    try:
        code = work(Launch(Path(sys.argv[1])), sys.argv[2:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1 if isinstance(error, DiskError | TaskError) else MISTAKE  # 1: a crash, which is tried again
    except Interrupted as interrupted:
        say(f"interrupted by {signal.Signals(interrupted.signum).name}, checkpoint written")
        code = 128 + interrupted.signum
    sys.exit(code)


if __name__ == "__main__":
    main()
