"""A child's tie to its parent: a pipe that closes when the parent dies, however it dies."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FLAG = "--lifeline"


def start(arguments: Sequence[str], folder: Path, **options: Any) -> subprocess.Popen[bytes]:
    """Start `python -m …` in `folder`, in a session of its own; it gets TERM when this process is gone."""
    return subprocess.Popen(
        [sys.executable, "-m", *arguments, FLAG], cwd=folder, stdin=subprocess.PIPE, start_new_session=True, **options
    )


def follow_parent() -> None:
    """In the child: when standard input closes, ask myself to stop."""
    if FLAG in sys.argv:
        sys.argv.remove(FLAG)
        threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
