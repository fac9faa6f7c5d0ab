"""One task of a launch, an array index under SLURM: python -m experiments.jobs.task LAUNCH INDEX

Trains its packs side by side, each in a worker process. A worker that crashes is tried once more, then its runs go
singly, so that only the culprit fails. USR1 and TERM reach the workers, which write a checkpoint; after USR1 (the time
limit is near) the task asks SLURM for itself again, unless it got nowhere.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

from experiments.files import as_json, numbered_in, write_durably
from experiments.jobs import lifeline
from experiments.jobs.launch import Launch
from ppo.refusals import UserError

MISTAKE, ELSEWHERE, FAILED, AGAIN = 2, 75, 76, 85
"""Exit codes: a mistake in what was asked; somebody else has a run; a run failed; interrupted, wants another turn."""

MAX_STALLS = 3  # turns in a row without a new checkpoint


class Supervisor:
    """The packs of one task."""

    def __init__(self, launch: Launch, index: int):
        self.launch, self.index = launch, index
        self.head = launch.head()
        self.packs = launch.tasks()[index]
        runs = [run for pack in self.packs for run in pack]
        self.entries = {entry.run_id: entry for entry in launch.entries(runs)}
        self.signum = 0
        self.workers: set[subprocess.Popen[bytes]] = set()
        self.codes: set[int] = set()

    def run(self) -> int:
        """Train all packs; returns the task's exit code."""
        for signum in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self.stop)
        before = self.progress()
        with ThreadPoolExecutor(len(self.packs)) as threads:
            for future in [threads.submit(self.train, pack) for pack in self.packs]:
                future.result()
        if self.signum and self.missing(list(self.entries)):
            return self.another_turn(moved=self.progress() != before)
        return max(self.codes)

    def train(self, pack: Sequence[str]) -> None:
        """One pack to its end, crashes included."""
        for _ in range(2):
            code, line = self.work(self.missing(pack))
            self.codes.add(code if code in (ELSEWHERE, MISTAKE) else 0)
            if code in (0, ELSEWHERE, MISTAKE) or self.signum:
                return
        for run in self.missing(pack):
            if len(pack) > 1:
                code, line = self.work([run])
            if self.signum:
                return
            if code in (ELSEWHERE, MISTAKE):
                self.codes.add(code)
            elif code != 0:
                self.fail(run, line)

    def work(self, runs: Sequence[str]) -> tuple[int, str]:
        """Run a worker, its words passed on; returns its exit code and its last line."""
        if not runs:
            return 0, ""
        worker = lifeline.start(
            ["experiments.jobs.worker", str(self.launch.folder), *runs],
            Path(self.head["code"]),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.workers.add(worker)
        if self.signum:
            worker.send_signal(self.signum)
        assert worker.stdout is not None
        last = ""
        for line in worker.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.flush()
            last = line.decode(errors="replace").strip() or last
        code = worker.wait()
        self.workers.discard(worker)
        if code < 0:
            last = f"killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
        return code, last

    def stop(self, signum: int, _frame: FrameType | None) -> None:
        """Pass the first signal on; the workers checkpoint and leave."""
        if not self.signum:
            self.signum = signum
            for worker in list(self.workers):
                worker.send_signal(signum)

    def another_turn(self, moved: bool) -> int:
        """Interrupted with work left: ask SLURM for this task again if it was the time limit."""
        job = os.environ.get("SLURM_ARRAY_JOB_ID")
        if self.signum != signal.SIGUSR1 or job is None:
            return 128 + self.signum
        stalls = self.launch.folder / "stalls" / str(self.index)
        stalls.parent.mkdir(exist_ok=True)
        count = 0 if moved else 1 + (int(stalls.read_text()) if stalls.exists() else 0)
        write_durably(stalls, str(count).encode())
        if count == MAX_STALLS:
            for run in self.missing(list(self.entries)):
                self.fail(run, f"{count} turns without a new checkpoint: the time limit is too short for an iteration")
            return FAILED
        if self.head["requeue"]:
            try:
                subprocess.run(["scontrol", "requeue", f"{job}_{os.environ['SLURM_ARRAY_TASK_ID']}"], check=False)
            except FileNotFoundError:
                print("no scontrol here: not requeued; cluster.follow_up or the study command goes on", flush=True)
        return AGAIN

    def fail(self, run: str, line: str) -> None:
        """Leave the reason with the run; `retry=failed` takes it up again."""
        self.codes.add(FAILED)
        folder = self.folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        reason = {"error": line, "log": str(self.launch.log(self.index)), "host": socket.gethostname()}
        write_durably(folder / "failed.json", as_json(reason))
        print(f"failed: {folder.name}: {line}", flush=True)

    def folder(self, run: str) -> Path:
        return self.launch.records / "runs" / self.head["code_id"] / self.entries[run].folder_name

    def missing(self, runs: Sequence[str]) -> list[str]:
        """Those neither done nor failed."""
        return [
            run for run in runs if not any((self.folder(run) / end).exists() for end in ("done.json", "failed.json"))
        ]

    def progress(self) -> list[int]:
        """The newest checkpoint's iteration of every run."""
        return [self.newest_checkpoint(run) for run in self.entries]

    def newest_checkpoint(self, run: str) -> int:
        attempts = [self.folder(run) / f"attempt-{number}" for number in numbered_in(self.folder(run), "attempt-")]
        return max((i for attempt in attempts for i in numbered_in(attempt, "checkpoint-", ".pt")), default=0)


def main() -> None:
    lifeline.follow_parent()
    try:
        code = Supervisor(Launch(Path(sys.argv[1])), int(sys.argv[2])).run()
    except UserError as error:
        print(f"error: {error}", flush=True)
        code = MISTAKE
    sys.exit(code)


if __name__ == "__main__":
    main()
