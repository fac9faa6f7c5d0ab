"""Packs side by side on this machine: a task process each, as many at once as there are cores."""

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from experiments.jobs import lifeline
from experiments.jobs.launch import Launch
from experiments.jobs.packs import PlannedPack
from experiments.jobs.progress import clock
from experiments.jobs.standing import Standing, standings
from experiments.jobs.task import FAILED
from ppo.refusals import positive

POLL_SECONDS = 0.5
LINE_SECONDS = 15.0  # between plain lines
PATIENCE_SECONDS = 30.0  # for checkpoints after Ctrl-C


@dataclass(frozen=True)
class Local:
    """conf/cluster/local.yaml."""

    kind: str = "local"
    workers: int | None = None  # packs at once; null is one per core of this process
    runs_per_pack: int = 33

    def __post_init__(self) -> None:
        positive("cluster.workers", self.workers)
        positive("cluster.runs_per_pack", self.runs_per_pack)

    @property
    def places(self) -> int:
        """Packs at once."""
        return self.workers or cores()

    @property
    def packs_per_task(self) -> int:
        return 1


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """The tasks of a launch, one pack each, in the order given."""

    def __init__(self, launch: Launch, packs: Sequence[PlannedPack], places: int, console: Console):
        self.launch, self.packs, self.places, self.console = launch, packs, places, console
        self.head = launch.head()
        self.waiting = deque(range(len(packs)))
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.ended = 0

    def run(self) -> None:
        """Until the last pack has ended; how the runs stand is then in their folders."""
        # Not SIGINT's handler: behind nohup or & that one may be "ignore".
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with Live(console=self.console, refresh_per_second=2) if self.console.is_terminal else ExitStack() as live:
                shown = -LINE_SECONDS
                while self.waiting or self.running:
                    self.step()
                    if isinstance(live, Live):
                        live.update(self.table())
                    elif time.monotonic() - shown > LINE_SECONDS:
                        shown = time.monotonic()
                        self.say(self.line())
                    time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            self.stop()
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)

    def step(self) -> None:
        """Reap what has ended, start what has room."""
        for index, process in list(self.running.items()):
            if (code := process.poll()) is not None:
                del self.running[index]
                self.ended += 1
                if code not in (0, FAILED):
                    self.say(f"pack {index}: exit code {code}: {last_line(self.launch.log(index))}")
        while self.waiting and len(self.running) < self.places:
            index = self.waiting.popleft()
            with self.launch.log(index).open("ab") as log:
                environment = os.environ | {"OMP_NUM_THREADS": "1"}  # a core per pack
                self.running[index] = lifeline.start(
                    ["experiments.jobs.task", str(self.launch.folder), str(index)],
                    Path(self.head["code"]),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                )

    def stop(self) -> None:
        """Ask every pack for a checkpoint, and wait for it."""
        for process in self.running.values():
            process.terminate()
        deadline = time.monotonic() + PATIENCE_SECONDS
        for process in self.running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()

    def stands(self, index: int) -> list[Standing]:
        return standings(self.packs[index].entries, self.launch.records, self.head["code_id"])

    def left(self, index: int) -> tuple[float, float, float]:
        """A running pack: share done, env steps per second, seconds left."""
        entries, stands = self.packs[index].entries, self.stands(index)
        iterations = entries[0].run.config.iterations
        done = sum(stand.iteration for stand in stands) / (iterations * len(entries))
        rate = max(stand.steps_per_second for stand in stands)
        steps = (1 - done) * iterations * entries[0].run.config.profile.steps * len(entries)
        return done, rate, steps / rate if rate else self.packs[index].seconds

    def seconds_left(self) -> float:
        """Of the whole launch, if all goes on as now."""
        running = [self.left(index)[2] for index in self.running]
        total = sum(running) + sum(self.packs[index].seconds for index in self.waiting)
        return max([total / self.places, *running])

    def line(self) -> str:
        """One plain line for a log."""
        rate = sum(self.left(index)[1] for index in self.running)
        packs = f"{self.ended} of {len(self.packs)} packs ended, {len(self.running)} running"
        return f"{packs}, {rate:,.0f} env steps/s, ETA {clock(self.seconds_left())}"

    def table(self) -> Table:
        """What is running now, for a terminal."""
        table = Table(title=self.line(), title_justify="left")
        for heading in ("pack", "task", "runs", "done", "env steps/s", "ETA"):
            table.add_column(heading, justify="left" if heading == "task" else "right")
        for index in self.running:
            entries = self.packs[index].entries
            done, rate, seconds = self.left(index)
            cells = (str(index), entries[0].run.config.env.id, str(len(entries)), f"{done:.0%}", f"{rate:,.0f}")
            table.add_row(*cells, clock(seconds))
        return table

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def last_line(path: Path) -> str:
    """The last words in a log."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()] if path.exists() else []
    return lines[-1].strip() if lines else "it said nothing"
