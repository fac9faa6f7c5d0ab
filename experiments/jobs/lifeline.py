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
    """Start `python -m …` in `folder`, out of reach of the terminal's signals; it gets TERM when this process is gone.

    A process group does that. So would a session, but Linux shares cores evenly between sessions, whatever `nice` says.
    """
    return subprocess.Popen(
        [sys.executable, "-m", *arguments, FLAG], cwd=folder, stdin=subprocess.PIPE, process_group=0, **options
    )


def follow_parent() -> None:
    """In the child: when standard input closes, ask myself to stop."""
    if FLAG in sys.argv:
        sys.argv.remove(FLAG)
        threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
