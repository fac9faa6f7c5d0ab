"""What a trainer knows of W&B: that a mirror may run beside it. Nothing here can stop, slow or change training."""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ppo.refusals import choose

MODES = ("none", "offline", "online")
PATIENCE_SECONDS = 75.0  # for the mirror's end, after training: it gives a silent server 30 s twice


@dataclass(frozen=True)
class Tracking:
    """conf/tracking: where W&B runs go."""

    mode: str = "none"  # none | offline (files under the records, no account) | online
    project: str = "ppo"
    entity: str | None = None  # the key's default entity if null

    def __post_init__(self) -> None:
        choose("tracking.mode", self.mode, MODES)


class MirrorProcess:
    """The mirror beside a pack; when its standard input closes, it knows that we are gone.

    It has a process group of its own, out of reach of the terminal's signals, in the trainer's session: Linux shares
    a core evenly between sessions, and the mirror's nice value would count for nothing in another.
    """

    def __init__(self, tracking: Tracking, records: Path, folders: Sequence[Path]):
        self.tracking = tracking
        self.task = {**asdict(tracking), "records": str(records), "folders": [str(folder) for folder in folders]}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the mirror, if one is wanted."""
        if self.tracking.mode == "none":
            return
        with suppress(OSError):  # no mirror then; `experiments.sync` makes up for it
            self.process = subprocess.Popen(
                [sys.executable, "-m", "experiments.tracking.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                process_group=0,
            )
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(self.task).encode() + b"\n")
            self.process.stdin.flush()

    def finish(self) -> str:
        """Training is over: wait for the last rows, within limits. Returns what is to be told, empty if nothing."""
        if self.process is None or self.process.stdin is None:
            return ""
        with suppress(OSError):
            self.process.stdin.close()
        try:
            code = self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            code = 1
        return "" if code == 0 else "W&B does not have everything yet; python -m experiments.sync sends the rest"
