"""The W&B mirror beside a pack, a process of its own, until its trainer is gone.

One line of JSON on its standard input says what to do, and the closing of it ends the process: by the trainer's end,
however it ends. It ignores the signals of its job, so what is left is written in peace; what cannot be written now,
`experiments.sync` writes later.
"""

import json
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path

from experiments.commands import leave
from experiments.tracking import wandb as wandb_side
from experiments.tracking.mirror import Mirrors, sentence, summarise
from experiments.tracking.settings import later


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
    wandb_side.drop_settings_of_others()
    task = json.loads(first_line(0))
    records = Path(task["records"])
    outputs = [os.dup(2)]  # the terminal

    def say(line: str) -> None:
        for descriptor in outputs:
            with suppress(OSError):  # the trainer's terminal may be gone
                os.write(descriptor, f"W&B mirror: {line}; {later(records)}\n".encode())

    def trainer_is_gone(seconds: float) -> bool:
        return bool(select.select([0], [], [], seconds)[0])

    try:
        target = wandb_side.target_of(records, task["mode"], task["project"], task["entity"])
        log = target.folder / "mirror.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)  # wandb's own words
        outputs.append(2)
        mirrors = Mirrors([Path(folder) for folder in task["folders"]], target, say)
        succeeded = mirrors.keep_up(trainer_is_gone, wandb_side.FINISH_SECONDS)
        if sum(mirrors.ended.values()) > mirrors.ended["complete before"]:
            print(f"W&B {target.name}: {summarise(mirrors.ended)}", file=sys.stderr, flush=True)
    except Exception as error:
        say(f"stopped: {sentence(error)}")
        succeeded = False
    leave(0 if succeeded else 1)


if __name__ == "__main__":
    main()
