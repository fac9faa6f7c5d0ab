"""What a trainer knows of W&B: that a mirror may run beside it. Nothing here can stop, slow or change training."""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.commands import typed
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


def later(records: Path) -> str:
    """What a mirror's trouble means, and what mends it."""
    return f"training is not affected; {typed('experiments.sync', records)} sends the rest"


class MirrorProcess:
    """The mirror beside a pack; when its standard input closes, it knows that we are gone.

    It has a process group of its own, out of reach of the terminal's signals, in the trainer's session: Linux shares
    a core evenly between sessions, and the mirror's nice value would count for nothing in another.
    """

    def __init__(self, tracking: Tracking, records: Path, folders: Sequence[Path]):
        self.tracking = tracking
        self.task: dict[str, Any] = {
            **asdict(tracking),
            "records": str(records),
            "folders": [str(folder) for folder in folders],
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.wanted = False  # by a trainer that has something to train

    def start(self) -> None:
        """Start the mirror, if one is wanted."""
        if self.tracking.mode == "none":
            return
        self.wanted = True
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
        if not self.wanted:
            return ""
        code = 1
        if self.process is not None and self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                code = self.process.wait(PATIENCE_SECONDS)
        place = Path(self.task["records"])
        return "" if code == 0 else f"the W&B mirror does not have everything yet; {later(place)}"
