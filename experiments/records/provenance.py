"""Where and with what a run was trained: commit, versions, machine. No environment variables but a named few."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from experiments.files import read_json

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
COMPUTING = ("ppo", "experiments", "conf")  # what a run's numbers come from; its changes come first in the diff
DIFF_LIMIT = 200_000  # characters
GIT_SECONDS = 30.0


@cache
def provenance(device: str) -> dict[str, Any]:
    """What a reader needs to make the run again."""
    import torch  # a launch asks for its origin alone

    return {
        **origin(),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {d.metadata["Name"]: d.version for d in sorted(distributions(), key=lambda d: d.metadata["Name"])},
        "host": platform.node(),
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else None,
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


@cache
def origin() -> dict[str, Any]:
    """Where this code comes from; `diff` is the uncommitted change of tracked files. A snapshot carries its answer.

    Where git tells nothing, `dirty` is None (unknown, not clean) and `git_error` says why.
    """
    carried = ROOT / "origin.json"
    if carried.exists():
        return read_json(carried)
    try:
        commit = git("rev-parse", "HEAD").strip()
        rest = (f":!{part}" for part in COMPUTING)
        diff = git("diff", "HEAD", "--", *COMPUTING) + git("diff", "HEAD", "--", ".", *rest)
    except GitError as error:
        print(f"the commit of this code stays unknown, and whether it was changed: {error}", file=sys.stderr)
        return {"commit": None, "dirty": None, "diff": "", "git_error": str(error)}
    mark = f"\n[cut here: {len(diff) - DIFF_LIMIT} more characters]\n" if len(diff) > DIFF_LIMIT else ""
    return {"commit": commit, "dirty": bool(diff), "diff": diff[:DIFF_LIMIT] + mark}


class GitError(Exception):
    """Why git tells nothing of this checkout: one line."""


def git(*arguments: str) -> str:
    """Git's answer about this checkout. Raises GitError where git is missing, too slow, or refuses."""
    command = ["git", *arguments]
    try:
        answer = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=GIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GitError(str(error)) from error
    if answer.returncode != 0:
        raise GitError(" ".join(answer.stderr.split()))
    return answer.stdout


def cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
